"""Time, memory and fraction of the matrix-product rate of one optimizer step.

An image step (pairs) and a region step (several phrases an image) are measured, with packed texts and with
the padded texts of `common/padded.py`, in fp32, and in bf16 if the device supports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xvlm import distributed
from xvlm.bench.common.batches import image_batch, region_batch
from xvlm.bench.common.flops import step_work
from xvlm.bench.common.gemm_baseline import (
    DTYPES,
    GemmBaseline,
    describe_device,
    peak_gb,
    precisions,
    reset_peak,
    seconds,
)
from xvlm.bench.common.padded import padded_losses
from xvlm.common.errors import InputError
from xvlm.common.progress import progress_bar
from xvlm.common.ranges import PositiveInt
from xvlm.config import Run
from xvlm.models.xvlm import PRETRAINING, build_model
from xvlm.registry import find
from xvlm.tasks.common.pretraining_batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain, PretrainRun
from xvlm.training.forms import forward_precision, use_training_forms
from xvlm.training.optimizer import build_optimizer, gradient_norm, step_clipped

Losses = Callable[[PretrainBatch], dict[str, Tensor]]


def pretraining(name: str) -> PretrainRun:
    """Return the run of a pre-training recipe.  Raises InputError for a recipe of another task."""
    run = find("recipes", name).recipe()
    if not isinstance(run, PretrainRun) or not set(PRETRAINING) <= set(run.model.heads):
        raise InputError(f"recipe {name!r} trains {run.task!r}; a pre-training recipe is needed, as base_4m")
    return run


def new_task(run: PretrainRun, device: torch.device) -> Pretrain:
    """Build a recipe's model with new weights, and its losses."""
    torch.manual_seed(0)
    losses = replace(run.losses, global_negatives=False)
    task = Pretrain(build_model(run.model), losses, run.faithful).to(device).train()
    use_training_forms(task, run, device)
    return task


@dataclass
class Step:
    """A step of the training loop without data loading: losses, backward pass, clipping, AdamW."""

    task: Pretrain
    run: Run
    precision: str
    device: torch.device

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.task.model, self.run.optim, ())
        self.weights = self.task.loss_weights()

    def __call__(self, losses_of: Losses, batch: PretrainBatch) -> None:
        """Take one step on a batch that is on the device."""
        with forward_precision(self.task, self.run, self.device, self.precision):
            losses = losses_of(batch)
        torch.stack([self.weights[name] * value for name, value in losses.items()]).sum().backward()
        step_clipped(self.optimizer, gradient_norm(self.optimizer), self.run.optim.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def largest_difference(task: Pretrain, batch: PretrainBatch) -> float:
    """Return the largest relative difference of a loss between packed and padded texts, without dropout."""
    task.eval()
    torch.manual_seed(1)  # the same negatives
    packed = task(batch)
    torch.manual_seed(1)
    padded = padded_losses(task, batch)
    task.train()
    return max(
        float((packed[name] - loss).abs() / loss.abs().clamp(min=1e-3)) for name, loss in padded.items()
    )


def bench(recipe: str = "published/base_4m", repeats: PositiveInt = 5, padded: bool = True) -> dict[str, Any]:
    """Measure pre-training steps.

    Args:
        recipe: pre-training recipe with the model and the losses.
        repeats: measurements that the median is taken of, after a warm-up.
        padded: whether padded texts are measured too.
    """
    device = distributed.device()
    run = pretraining(recipe)
    baseline = GemmBaseline(device)
    task = new_task(run, device)
    batches = {
        "image": image_batch(run.model).to(device),
        "region": region_batch(run.model).to(device),
    }
    work = {name: step_work(task, batch) / 1e9 for name, batch in batches.items()}
    result: dict[str, Any] = {
        "recipe": recipe,
        "device": describe_device(device),
        "torch": torch.__version__,
        "parameters_m": sum(p.numel() for p in task.parameters()) / 1e6,
        **dict.fromkeys(DTYPES),
        "largest_loss_difference": max(largest_difference(task, batch) for batch in batches.values()),
    }
    paths: dict[str, Losses] = {"": task}
    if padded:
        paths["padded_"] = lambda batch: padded_losses(task, batch)
    supported = precisions(device)
    result |= {precision: {} for precision in supported}
    cases = [(p, path, name) for p in supported for path in paths for name in batches]
    step = Step(task, run, supported[0], device)
    for precision, path, name in progress_bar(cases, "steps", len(cases)):
        step.precision, quantities = precision, result[precision]
        reset_peak(device)
        call = partial(step, paths[path], batches[name])
        quantities[f"{path}{name}_step_s"] = seconds(call, device, repeats, before=baseline.sample)
        quantities[f"{path}{name}_peak_gb"] = peak_gb(device)
    result |= baseline.rates()
    for precision in supported:
        quantities, rate = result[precision], baseline.gflops(precision)
        for name, gflop in work.items():
            quantities[f"{name}_useful_gflop"] = gflop
            quantities[f"{name}_gemm_fraction"] = gflop / quantities[f"{name}_step_s"] / rate
        quantities["gemm_fraction"] = quantities["image_gemm_fraction"]
        quantities["peak_rss_gb"] = max(quantities[f"{name}_peak_gb"] for name in batches)
        if padded:
            for name in batches:
                padded_s = quantities[f"padded_{name}_step_s"]
                quantities[f"{name}_speedup"] = padded_s / quantities[f"{name}_step_s"]
    return result
