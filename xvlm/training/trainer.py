"""A model in training: a step changes the model, its optimiser, its running average and the progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xvlm import distributed
from xvlm.common.errors import NotFiniteError
from xvlm.common.hardware import autocast
from xvlm.common.json_file import write_json
from xvlm.common.terminal import print_notice
from xvlm.config import Run
from xvlm.data.loading.bad_records import BadRecordCounter
from xvlm.data.loading.loader import StepData
from xvlm.models.vision.batch_norm import synchronize_batch_norms
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.loss_module import LossModule
from xvlm.training import checkpoint
from xvlm.training.forms import forward_precision
from xvlm.training.log import published_losses
from xvlm.training.optimizer import (
    ExponentialMovingAverage,
    build_optimizer,
    first_non_finite,
    gradient_norm,
    lr_factor,
    set_learning_rate,
    step_clipped,
)
from xvlm.training.sharded_checkpoint import ShardedCheckpoints
from xvlm.training.sharding import Sharding, is_sharded
from xvlm.training.step_numbers import StepNumbers, are_finite

Evaluate = Callable[[nn.Module, int], dict[str, float]]
"""Evaluates a model, which is in evaluation mode, after a number of steps."""


class Trainer:
    """A model in training.

    Attributes:
        average: running average of the model's weights; `None` without `run.optim.ema_decay`.
        state: progress of the run, which checkpoints store.
        is_resumed: whether the run continues from a checkpoint.
        reads_late: whether the numbers of a step are read after the next one has begun: a GPU then never
            waits for the host, and a CPU gains nothing.
    """

    def __init__(
        self,
        loss_module: LossModule,
        run: Run,
        out: Path,
        pretrained_names: Collection[str],
        resume: bool,
        separate_steps: bool,
    ) -> None:
        """Build the optimiser, and load the newest checkpoint if `resume` is set; see `fit`.

        Args:
            separate_steps: whether a step may hold one data stream alone, and not reach the parameters that
                only other streams use.
        """
        self.run, self.out, self.device = run, out, distributed.device()
        self.reads_late = self.device.type != "cpu"
        autocast(self.device, run.precision)  # raises before the first step if the precision is unknown,
        lr_factor(run.optim, run.optim.warmup_steps)  # or the schedule
        self.loss_module, self.model = loss_module.to(self.device), loss_module.model
        self.weights = loss_module.loss_weights()
        if distributed.world_size() > 1:
            synchronize_batch_norms(loss_module)
        # Before the optimiser and the average, which then hold parts, too.
        self.sharding = Sharding(loss_module, run.shard_degree) if is_sharded(run) else None
        self.sharded_checkpoints = ShardedCheckpoints() if self.sharding else None

        newest = checkpoint.newest_intact_for_all_ranks(out) if resume else None
        self.is_resumed = newest is not None
        if newest:
            pretrained_names = checkpoint.read_state(newest).pretrained_names
        self.optimizer = build_optimizer(self.model, run.optim, pretrained_names, run.faithful)
        decay = run.optim.ema_decay
        self.average = ExponentialMovingAverage(self.model, decay) if decay else None
        self.state = checkpoint.TrainingState(pretrained_names=sorted(pretrained_names))
        if newest:
            self.state = checkpoint.load(newest, self.model, self.optimizer, self.average)
        bad_log = out / "bad_records.jsonl" if distributed.is_main() else None
        self.bad_counter = BadRecordCounter(bad_log, run.max_bad)
        if self.state.bad:
            self.bad_counter.load_state_dict(self.state.bad)

        self._last_numbers: StepNumbers | None = None
        self.wrapped: nn.Module = loss_module
        if distributed.world_size() > 1 and not self.sharding:
            self.wrapped = DistributedDataParallel(loss_module, find_unused_parameters=separate_steps)

    def train_step(self, data: StepData) -> StepNumbers:
        """Take the optimiser steps of a training step, and return its losses, which `read` has to read.

        A step whose losses or gradients are not finite changes no weight.

        Raises TooManyBadRecordsError, and on a CPU what `read` raises.
        """
        run, step = self.run, self.state.step
        # Random numbers are a function of the step, so that checkpoints need no state of a generator.
        torch.manual_seed((run.seed * 1_000_003 + step) * 4096 + distributed.rank())
        lr = set_learning_rate(self.optimizer, run.optim, step, run.faithful)
        numbers = StepNumbers.begin(step, lr, data.keys, self.device, self._last_numbers)
        self._last_numbers = numbers
        for batches in data.by_optimizer_step():
            losses = self._backward(batches)
            norm = gradient_norm(self.optimizer)
            means = distributed.mean_over_ranks(torch.stack([*losses.values()]))
            values_N = torch.cat((means, norm.to(means.dtype)[None]))
            numbers.add((*losses, "grad_norm"), values_N)
            is_finite = values_N.isfinite().all() if self.reads_late else None
            if not self.reads_late:
                self.read(numbers)
            step_clipped(self.optimizer, norm, run.optim.max_grad_norm, is_finite)
            self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)
        numbers.end()
        self.state.step += 1
        self.bad_counter.add(data.read, data.bad, data.notes)
        self.bad_counter.check()
        self.state.bad = self.bad_counter.state_dict()
        return numbers

    def read(self, unread: StepNumbers) -> dict[str, float]:
        """Return the numbers of a step for the log.  Raises NotFiniteError for a loss or gradients."""
        numbers = unread.read()
        if not are_finite(numbers):
            raise self._non_finite_error(numbers, unread)
        numbers = {"loss": sum(self.weights.get(k, 0.0) * v for k, v in numbers.items()), **numbers}
        if self.run.faithful:
            numbers |= published_losses(numbers, unread.lr * self.run.optim.new_lr_multiplier)
        return numbers | {"lr": unread.lr}

    def _backward(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Accumulate the gradients of micro-batches, and return the mean of each of this rank's losses."""
        means: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            with self._no_sync() if index < len(batches) - 1 else nullcontext():
                with forward_precision(self.model, self.run, self.device, self.run.precision):
                    losses = self.wrapped(batch.to(self.device, non_blocking=True))
                total = sum(self.weights[name] * value for name, value in losses.items())
                (total / len(batches)).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0) + value.detach() / len(batches)
        if self.sharding:
            self.sharding.average_scalar_gradients()
        return means

    def _no_sync(self) -> Any:
        wrapped = self.wrapped
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def _non_finite_error(self, numbers: Mapping[str, float], unread: StepNumbers) -> NotFiniteError:
        """Write the keys of the batch to a file, and return the error of a loss that is not finite."""
        step, path = unread.step, self.out / f"bad_step_rank{distributed.rank()}.json"
        values = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        write_json(path, {"step": step, **values, "keys": unread.keys})
        # The gradients of a step that is read late are gone.
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        weight, gradient = first_non_finite(self.model.state_dict()), first_non_finite(gradients)
        also = f"weight {weight}" if weight else f"the gradient of {gradient}" if gradient else ""
        return NotFiniteError(
            f"step {step}: a loss is not finite ({numbers}){', nor is ' if also else ''}{also}; "
            f"the keys of its batch are in {self.out}/bad_step_rank*.json"
        )

    def evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """Evaluate the model with averaged weights, in evaluation mode, and return to training mode."""
        if self.sharding:
            model = self._whole_model().to(self.device)
            metrics = evaluate_average(evaluate, model, None, self.state.step)
            model.cpu()
        else:
            metrics = evaluate_average(evaluate, self.model, self.average, self.state.step)
        distributed.barrier_without_limit()  # the collectives of the next step have a limit
        self.loss_module.train()
        return metrics

    def _whole_model(self) -> XVLM:
        """Return the sharded model with averaged weights, if there are any, as one that is not sharded."""
        assert self.sharding
        return self.sharding.whole_model(self.average.values if self.average else self.model.state_dict())

    def save(self) -> None:
        """Save a checkpoint; that of a sharded model is written while training goes on.

        Raises NotFiniteError, with the name of a weight, instead of saving NaN.
        """
        average = self.average
        name = first_non_finite(self.model.state_dict())
        if average:
            name = name or first_non_finite(average.values)
        if self.sharding:  # each rank has checked its own parts
            name = next(filter(None, distributed.gather_objects(name)), None)
        if name:
            raise NotFiniteError(
                f"step {self.state.step}: weight {name} is not finite, so it is not saved; "
                f"earlier checkpoints are in {self.out / 'checkpoints'}"
            )
        content = self.state, self.model, self.optimizer, average
        if self.sharded_checkpoints:
            self.sharded_checkpoints.save(self.out, *content)
        else:
            distributed.run_on_main(lambda: checkpoint.save(self.out, *content))

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is complete.  Raises OutputError if it cannot be written."""
        if self.sharded_checkpoints:
            self.sharded_checkpoints.wait()

    def finish(self) -> None:
        """Print the notes on records, and give the loss module a whole model with the averaged weights."""
        self.wait_for_checkpoint()
        for line in self.bad_counter.note_lines() if distributed.is_main() else ():
            print_notice(line)
        if self.sharding:
            self.loss_module.model = self._whole_model().to(self.device)
        elif self.average:
            self.average.swap_in(self.model)


def evaluate_average(
    evaluate: Evaluate, model: nn.Module, average: ExponentialMovingAverage | None, step: int
) -> dict[str, float]:
    """Call `evaluate` on the model in evaluation mode, with averaged weights if there are any."""
    restore = average.swap_in(model) if average else None
    model.eval()
    # Statistics of BatchNorm agree on all ranks (models/vision/batch_norm.py); other buffers may not.
    distributed.broadcast_tensors(model.buffers())
    with torch.no_grad():
        metrics = evaluate(model, step)
    if restore:
        restore()
    return metrics
