"""The only training loop.  It knows no model: named losses, weighted sum, backward, clip, step, log, save."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xvlm import dist
from xvlm.data.loader import BadRecords, Feed, load
from xvlm.errors import InputError, NotFiniteError
from xvlm.jsonfile import read_json
from xvlm.model.batch_norm import synchronise_batch_norms
from xvlm.outputs import check_room
from xvlm.run import Run, write_json
from xvlm.terminal import notice
from xvlm.train import checkpoint
from xvlm.train.log import Log, published_names
from xvlm.train.optim import (
    Average,
    build_optimizer,
    first_not_finite,
    gradient_norm,
    rate,
    set_rate,
    step_clipped,
)
from xvlm.whole import AppendFile

Evaluate = Callable[[nn.Module, int], dict[str, float]]
"""(model, steps done) -> numbers; the model is in evaluation mode, with averaged weights if there are any."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its last step is saved."""


def fit(
    task: nn.Module,
    feed: Feed,
    run: Run,
    out: Path,
    *,
    loaded: Collection[str] = (),
    resume: bool = False,
    evaluate: Evaluate | None = None,
    minutes: float | None = None,
) -> checkpoint.State:
    """Train `task` for `run.optim.steps` steps on `feed`.

    Args:
        task: maps a batch to named losses; has `model`, what is saved and evaluated, and `loss_weights()`.
        loaded: names of the model's parameters that a checkpoint gave.
        resume: go on from the newest checkpoint in `out`, bit for bit; from the beginning if there is none.
        minutes: stop (saved, resumable) after this much time in all sittings, whatever is left.
    Raises:
        Interrupted: by Ctrl-C or SIGTERM, after saving.
        NotFiniteError: a loss is not finite (the batch's keys are in `out/bad_step_rank*.json`), or a weight.
        OutputError: something cannot be written; what was saved before still is.
    """
    device = dist.device()
    check_names(run, device)
    task.to(device)
    model: nn.Module = task.model  # type: ignore[assignment]
    newest = checkpoint.chosen_by_main(out) if resume else None
    if newest:
        loaded = checkpoint.read_state(newest).loaded
    optimizer = build_optimizer(model, run.optim, loaded, run.faithful)
    average = Average(model, run.optim.ema) if run.optim.ema else None
    state = checkpoint.State(loaded=sorted(loaded))
    if newest:
        state = checkpoint.load(newest, model, optimizer, average)
    dist.on_main(lambda: begin(run, out, state, checkpoint.bytes_needed(model, average)))
    if dist.world() > 1:
        synchronise_batch_norms(task)
    # Where parts take turns, a turn does not reach what is for the other parts.
    wrapped = (
        DistributedDataParallel(task, find_unused_parameters=feed.takes_turns) if dist.world() > 1 else task
    )
    step_losses = torch.compile(wrapped) if run.compile else wrapped
    weights: dict[str, float] = task.loss_weights()  # type: ignore[operator]

    ledger = BadRecords(out / "bad_records.jsonl" if dist.is_main() else None, run.max_bad)
    if state.bad:
        ledger.load_state_dict(state.bad)
    log = Log(out, state.step, run.optim.steps, run.recipe or run.task)
    begun, before = time.monotonic(), state.seconds
    # Signals are caught before the workers start: what is thrown while they are forked is lost.
    with (
        StopSignal() as stop,
        closing(log),
        load(feed, state.step, run.optim.steps, run.workers, device.type == "cuda") as steps,
    ):
        if newest and evaluate and is_evaluated(run, state.step) and not log.has_event(state.step, "eval"):
            # It was stopped between saving and measuring.
            log.event(state.step, "eval", evaluated(evaluate, model, average, state.step))
        task.train()
        while state.step < run.optim.steps:
            t0 = time.monotonic()
            fed = next(steps)
            t1 = time.monotonic()
            # Randomness is a function of the step: nothing of it needs to be saved.
            torch.manual_seed((run.seed * 1_000_003 + state.step) * 4096 + dist.rank())
            lr = set_rate(optimizer, run.optim, state.step, run.faithful)
            numbers: dict[str, float] = {}
            for batches in fed.by_turn():
                totals: dict[str, Tensor] = {}
                for number, batch in enumerate(batches):
                    last = number == len(batches) - 1
                    with nullcontext() if last or wrapped is task else wrapped.no_sync():  # type: ignore[operator]
                        with autocast(device, run.precision):
                            losses = step_losses(batch.to(device, non_blocking=True))
                        total = sum(weights[name] * value for name, value in losses.items())
                        (total / len(batches)).backward()
                    for name, value in losses.items():
                        totals[name] = totals.get(name, 0) + value.detach() / len(batches)
                norm = gradient_norm(optimizer)
                means = dist.mean_over_ranks(torch.stack([*totals.values()])).tolist()
                numbers |= dict(zip(totals, means, strict=True)) | {"grad_norm": float(norm)}
                if not all(map(math.isfinite, numbers.values())):
                    raise not_finite(out, state.step, numbers, fed.keys, model)
                step_clipped(optimizer, norm, run.optim.clip)
                optimizer.zero_grad(set_to_none=True)
            if average:
                average.update(model)
            state.step += 1
            ledger.add(fed)
            ledger.check()
            t2 = time.monotonic()
            state.seconds = before + t2 - begun
            state.bad = ledger.state_dict()

            if state.step % max(1, run.log_every) == 0:
                count = sum(len(keys) for keys in fed.keys.values()) * dist.world()
                numbers = {"loss": sum(weights.get(k, 0.0) * v for k, v in numbers.items()), **numbers}
                if run.faithful:
                    numbers |= published_names(numbers, lr * run.optim.new_multiplier)
                numbers |= {
                    "lr": lr,
                    "seconds": state.seconds,
                    "images_per_s": count / (t2 - t0),
                    "data_share": (t1 - t0) / (t2 - t0),
                }
                log.step(state.step, numbers)
            done = state.step == run.optim.steps
            late = minutes is not None and state.seconds > 60 * minutes
            asked, over = on_any_rank([stop.asked, late], state.step)
            measured = evaluate and not asked and is_evaluated(run, state.step)
            if done or over or asked or measured or (run.save_every and state.step % run.save_every == 0):
                check_weights(model, average, state.step, out)
                log.flush()
                dist.on_main(lambda: checkpoint.save(out, state, model, optimizer, average))
            if asked:
                raise Interrupted(
                    f"stopped after step {state.step} of {run.optim.steps}; "
                    f"it is saved in {out} and --resume goes on"
                )
            if evaluate and measured:
                log.event(state.step, "eval", evaluated(evaluate, model, average, state.step))
                task.train()
            if over:
                break
    for line in ledger.note_lines() if dist.is_main() else ():
        notice(line)
    if average:
        average.swapped(model)
    return state


def check_names(run: Run, device: torch.device) -> None:
    """Raise InputError, before the first step, for a precision or a schedule that does not exist."""
    autocast(device, run.precision)
    rate(run.optim, run.optim.warmup)


def begin(run: Run, out: Path, state: checkpoint.State, needed_bytes: int) -> None:
    """Write `run.json`, once it is clear that there is room for a checkpoint."""
    if state.step < run.optim.steps:
        check_room(out, needed_bytes, "a checkpoint")
    note_precision(run, out, state.step)
    write_json(out / "run.json", run)


def note_precision(run: Run, out: Path, step: int) -> None:
    """Say and log that a run goes on in another precision than before."""
    path = out / "run.json"
    before = read_json(path).get("precision") if step and path.exists() else run.precision
    if before != run.precision:
        notice(f"{out}: goes on in {run.precision} after {step} steps in {before}")
        row = {"step": step, "event": "precision", "before": before, "now": run.precision}
        with closing(AppendFile(out / "log.jsonl")) as log:
            log.write((json.dumps(row) + "\n").encode())


def is_evaluated(run: Run, step: int) -> bool:
    """Whether the model is measured after `step` steps."""
    return step == run.optim.steps or bool(run.eval_every and step % run.eval_every == 0)


def not_finite(
    out: Path, step: int, numbers: Mapping[str, float], keys: Mapping[str, list[str]], model: nn.Module
) -> NotFiniteError:
    """The error of a loss or gradient that is not finite; the batch's keys are kept in a file."""
    told = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    write_json(out / f"bad_step_rank{dist.rank()}.json", {"step": step, **told, "keys": keys})
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    weight, gradient = first_not_finite(model.state_dict()), first_not_finite(gradients)
    where = (
        f", nor is weight {weight}" if weight else f", nor is the gradient of {gradient}" if gradient else ""
    )
    return NotFiniteError(
        f"step {step}: a loss is not finite ({dict(numbers)}){where}; "
        f"the keys of its batch are in {out}/bad_step_rank*.json"
    )


def check_weights(model: nn.Module, average: Average | None, step: int, out: Path) -> None:
    """Raise NotFiniteError, naming a weight, where the model must not be saved."""
    name = first_not_finite(model.state_dict()) or (average and first_not_finite(average.values))
    if name:
        raise NotFiniteError(
            f"step {step}: weight {name} is not finite, so it is not saved; "
            f"what was saved before is in {out / 'checkpoints'}"
        )


def evaluated(evaluate: Evaluate, model: nn.Module, average: Average | None, step: int) -> dict[str, float]:
    """`evaluate` on the model, in evaluation mode, with averaged weights."""
    back = average.swapped(model) if average else None
    model.eval()
    # Statistics of BatchNorm are of all ranks (model/batch_norm.py); whatever else a buffer holds may not be.
    dist.copy_from_main(model.buffers())
    with torch.no_grad():
        numbers = evaluate(model, step)
    if back:
        back()
    return numbers


def autocast(device: torch.device, precision: str) -> Any:
    """The context of a precision: "fp32" or "bf16"; float16 is never used."""
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision is {precision!r}; it may be 'fp32' or 'bf16'")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class StopSignal:
    """Ctrl-C and SIGTERM ask for a stop after the present step, on all ranks; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def on_any_rank(flags: list[bool], step: int) -> list[bool]:
    """Each flag, if any rank has it; looked up every 20 steps where there are several ranks, for it waits."""
    if dist.world() == 1:
        return flags
    if step % 20:
        return [False] * len(flags)
    return [any(of_ranks) for of_ranks in zip(*dist.gather_objects(flags), strict=True)]
