"""Time, launches and memory of the step that pre-training takes: pairs and region images together.

Steps follow each other without waiting, as in training, so that the host's work overlaps with the device's.
The step with the contrastive loss alone, which is what a two-tower model trains, is measured beside it, with
the same encoders and batch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from xvlm import distributed
from xvlm.bench.common.batches import CAPTION, PHRASE, noise_samples
from xvlm.bench.common.flops import step_work
from xvlm.bench.common.gemm_baseline import describe_device, peak_gb, precisions, reset_peak, seconds
from xvlm.bench.step import Step, new_task, pretraining
from xvlm.common.hardware import deterministic_algorithms
from xvlm.common.ranges import NonNegativeInt, PositiveInt
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate
from xvlm.tasks.pretrain import Pretrain, PretrainRun

MOST_PHRASES = 5
SIDES = {"cuda": 8192, "cpu": 2048}
"""Side of the square matrices whose product is the baseline."""
COPIED_BYTES = 2**30


def bench(
    recipe: str = "published/base_4m",
    pairs: NonNegativeInt = 128,
    region_images: PositiveInt = 24,
    vision: str = "",
    kernels: bool = True,
    activation_checkpointing: Literal["none", "selective", "full"] = "none",
    deterministic: bool = False,
    repeats: PositiveInt = 8,
) -> dict[str, Any]:
    """Measure pre-training steps on pairs and region images, in bf16 if the device supports it.

    Args:
        recipe: pre-training recipe with the model and the losses.
        pairs: images with a caption each.
        region_images: images with one to five phrases each.
        vision: name of another image encoder than the recipe's.
        kernels: whether a GPU uses Triton kernels and graphs; see `Run.gpu_kernels`.
        activation_checkpointing: what is computed again in the backward pass; see the field of `Run`.
        deterministic: whether steps repeat bit for bit; see the field of `Run`.
        repeats: steps that the mean is taken of, after the warm-up.
    """
    run = replace(
        pretraining(recipe),
        gpu_kernels=kernels,
        activation_checkpointing=activation_checkpointing,
        deterministic=deterministic,
    )
    if vision:
        run = replace(run, model=replace(run.model, vision=VisionConfig(vision)))
    with deterministic_algorithms(deterministic):
        return {"recipe": recipe, **measured(run, pairs, region_images, repeats)}


def measured(run: PretrainRun, pairs: int, region_images: int, repeats: int) -> dict[str, Any]:
    """Measure the steps of a run on pairs and region images; see `bench`."""
    device = distributed.device()
    precision = precisions(device)[-1]
    task = new_task(run, device)
    step = Step(task, run, precision, device)
    batches = {"": mixed_batch(run.model, pairs, region_images)}
    if pairs:
        batches["regions_"] = mixed_batch(run.model, 0, region_images)
    rate = gemm_tflops(device, precision)
    result: dict[str, Any] = {
        "vision": run.model.vision.name,
        "device": describe_device(device),
        "torch": torch.__version__,
        "precision": precision,
        "gpu_kernels": run.gpu_kernels,
        "activation_checkpointing": run.activation_checkpointing,
        "deterministic": run.deterministic,
        "pairs": pairs,
        "region_images": region_images,
        "phrases": len(batches[""].concepts) - pairs,
        "gemm_tflops": rate,
        "copy_gb_per_s": copy_gb_per_s(device),
    }
    for name, batch in batches.items():
        one_step = step_on(step, task, batch, device)
        result |= {f"{name}{key}": value for key, value in measure(one_step, device, repeats).items()}
        tflop = step_work(task, batch.to(device)) / 1e12
        result[f"{name}useful_tflop"] = tflop
        result[f"{name}gemm_fraction"] = tflop / result[f"{name}step_s"] / rate
    whole = batches[""].to(device)
    weights, task.weights = task.weights, replace(task.weights, itm=0.0, mlm=0.0, bbox=0.0, giou=0.0)
    alone = measure(lambda: step(task, whole), device, repeats)["step_s"]
    task.weights = weights
    return result | {
        "contrastive_only_step_s": alone,
        "over_contrastive_only": result["step_s"] / alone,
    }


def mixed_batch(config: ModelConfig, pairs: int, region_images: int) -> PretrainBatch:
    """Return whole images with a caption each, and images with one to five phrases of regions each."""
    phrases = np.random.default_rng(1).integers(1, MOST_PHRASES + 1, region_images).tolist()
    streams = {"regions": noise_samples(config, phrases, PHRASE, True)}
    if pairs:
        streams["pairs"] = noise_samples(config, [1] * pairs, CAPTION, False)
    return collate(streams)


def measure(one_step: Callable[[], None], device: torch.device, repeats: int) -> dict[str, Any]:
    """Return the time of the first step, of a later one and of the host's part, and what one launches."""
    reset_peak(device)
    start = time.perf_counter()
    one_step()
    wait(device)
    first = time.perf_counter() - start
    host, whole = seconds_of_steps(one_step, device, repeats)
    counts = device_calls(one_step) if device.type == "cuda" else {}
    return {"first_step_s": first, "step_s": whole, "host_s": host, "peak_gb": peak_gb(device), **counts}


def seconds_of_steps(one_step: Callable[[], None], device: torch.device, repeats: int) -> tuple[float, float]:
    """Return the seconds of the host's part of a step, and those of a step, after a warm-up."""
    for _ in range(3):  # graphs of the encoder are made in the third step
        one_step()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        one_step()
    host = (time.perf_counter() - start) / repeats
    wait(device)
    return host, (time.perf_counter() - start) / repeats


def mixed_step_seconds(recipe: str, pairs: int, region_images: int, repeats: int = 8) -> float:
    """Return the seconds of a pre-training step on this device, as `bench` measures it."""
    device, run = distributed.device(), pretraining(recipe)
    task = new_task(run, device)
    step = Step(task, run, precisions(device)[-1], device)
    one_step = step_on(step, task, mixed_batch(run.model, pairs, region_images), device)
    one_step()  # kernels are compiled
    return seconds_of_steps(one_step, device, repeats)[1]


def step_on(step: Step, task: Pretrain, batch: PretrainBatch, device: torch.device) -> Callable[[], None]:
    """Return a step that begins with copies from page-locked memory, as behind a data loader."""
    on_host = batch.pin_memory() if device.type == "cuda" else batch
    return lambda: step(task, on_host.to(device, non_blocking=True))


def wait(device: torch.device) -> None:
    """Wait for the work that is queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_calls(one_step: Callable[[], None]) -> dict[str, int]:
    """Count what a step asks the driver for: launches (a graph is one), copies, and waits for the device."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        one_step()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() or ()]
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            one_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {
        "launches": sum("Launch" in name for name in names),
        "copies_and_fills": sum(name.startswith(("cudaMemcpy", "cudaMemset")) for name in names),
        "waits": sum("called a synchronizing" in str(one.message) for one in waits),
    }


def gemm_tflops(device: torch.device, precision: str) -> float:
    """Return the rate of a large matrix product, in 10^12 operations per second."""
    side, dtype = SIDES[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    return 2 * side**3 / seconds(lambda: a @ b, device, repeats=9) / 1e12


def copy_gb_per_s(device: torch.device) -> float:
    """Return the rate of a large copy, counting bytes that are read and bytes that are written."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / seconds(lambda: target.copy_(source), device, repeats=9) / 1e9
