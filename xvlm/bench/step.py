"""One optimiser step: how long, how near to the machine's matrix-product rate, how much memory.

An image step (pairs) and a region step (several phrases an image), each on the fast path and on the padded
one of `_padded.py`, with the same weights and the same losses, in fp32 and in bf16 where the device has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xvlm import dist
from xvlm.bench._batches import image_batch, region_batch
from xvlm.bench._padded import padded_losses
from xvlm.bench._work import step_work
from xvlm.bench._yardstick import DTYPES, Yardstick, forget_peak, peak_gb, precisions, seconds, told
from xvlm.errors import InputError
from xvlm.lookup import find
from xvlm.model.xvlm import PRETRAINING, build_model
from xvlm.progress import tracked
from xvlm.ranges import PositiveInt
from xvlm.run import OptimConfig
from xvlm.tasks._batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain, PretrainRun
from xvlm.train.loop import autocast
from xvlm.train.optim import build_optimizer, gradient_norm, step_clipped

Losses = Callable[[PretrainBatch], dict[str, Tensor]]


def pretraining(name: str) -> PretrainRun:
    """The run of a pre-training recipe.  Raises InputError for a recipe of another task."""
    run = find("recipes", name).recipe()
    if not isinstance(run, PretrainRun) or not set(PRETRAINING) <= set(run.model.parts):
        raise InputError(f"recipe {name!r} trains {run.task!r}; a pre-training recipe is needed, as base_4m")
    return run


def new_task(run: PretrainRun, device: torch.device) -> Pretrain:
    """The recipe's model with new weights, every loss with the recipe's weight."""
    torch.manual_seed(0)
    losses = replace(run.losses, global_negatives=False)
    return Pretrain(build_model(run.model), losses, run.faithful).to(device).train()


@dataclass
class Step:
    """What the training loop does in a step, without data: losses, backward, clip, AdamW."""

    task: Pretrain
    optim: OptimConfig
    precision: str
    device: torch.device

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.task.model, self.optim, ())
        self.weights = self.task.loss_weights()

    def __call__(self, losses_of: Losses, batch: PretrainBatch) -> None:
        """One step on a batch, which is on the device already."""
        with autocast(self.device, self.precision):
            losses = losses_of(batch)
        torch.stack([self.weights[name] * value for name, value in losses.items()]).sum().backward()
        step_clipped(self.optimizer, gradient_norm(self.optimizer), self.optim.clip)
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def difference(task: Pretrain, batch: PretrainBatch) -> float:
    """The largest relative difference of a loss between both paths, nothing dropped, same negatives."""
    task.eval()
    torch.manual_seed(1)
    fast = task(batch)
    torch.manual_seed(1)
    slow = padded_losses(task, batch)
    task.train()
    return max(float((fast[name] - slow[name]).abs() / slow[name].abs().clamp(min=1e-3)) for name in slow)


def bench(recipe: str = "base_4m", repeats: PositiveInt = 5, padded: bool = True) -> dict[str, Any]:
    """A pre-training step of a recipe's model.

    Args:
        recipe: whose model and losses; base_4m is the published base model.
        repeats: of which the median is taken, after one that does not count.
        padded: measure the padded path too.
    """
    device = dist.device()
    run = pretraining(recipe)
    yardstick = Yardstick(device)
    task = new_task(run, device)
    batches = {
        "image": image_batch(run.model).to(device),
        "region": region_batch(run.model).to(device),
    }
    work = {name: step_work(task, batch) / 1e9 for name, batch in batches.items()}
    result: dict[str, Any] = {
        "recipe": recipe,
        "device": told(device),
        "torch": torch.__version__,
        "parameters_m": sum(p.numel() for p in task.parameters()) / 1e6,
        **dict.fromkeys(DTYPES),
        "largest_loss_difference": max(difference(task, batch) for batch in batches.values()),
    }
    paths: dict[str, Losses] = {"": task}
    if padded:
        paths["padded_"] = lambda batch: padded_losses(task, batch)
    known = precisions(device)
    todo = [(p, path, name) for p in known for path in paths for name in batches]
    step = Step(task, run.optim, known[0], device)
    for precision, path, name in tracked(todo, "steps", len(todo)):
        step.precision, found = precision, result[precision] or {}
        forget_peak(device)
        call = partial(step, paths[path], batches[name])
        found[f"{path}{name}_step_s"] = seconds(call, device, repeats, before=yardstick.sample)
        found[f"{path}{name}_peak_gb"] = peak_gb(device)
        result[precision] = found
    result |= yardstick.rates()
    for precision in known:
        found, rate = result[precision], yardstick.gflops(precision)
        for name, gflop in work.items():
            found[f"{name}_useful_gflop"] = gflop
            found[f"{name}_gemm_fraction"] = gflop / found[f"{name}_step_s"] / rate
        found["gemm_fraction"] = found["image_gemm_fraction"]
        found["peak_rss_gb"] = max(found[f"{name}_peak_gb"] for name in batches)
        if padded:
            for name in batches:
                found[f"{name}_speedup"] = found[f"padded_{name}_step_s"] / found[f"{name}_step_s"]
    return result
