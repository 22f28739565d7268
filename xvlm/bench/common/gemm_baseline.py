"""Measurement of time and memory, and the hardware's own matrix-product rate as a baseline."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from xvlm.common.hardware import supports_bfloat16
from xvlm.common.memory import release_freed_memory

SIDE = 2048
"""Side of the square matrices whose product is the baseline."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precisions(device: torch.device) -> list[str]:
    """Return those of "fp32" and "bf16" that the device has instructions for."""
    return ["fp32", *(["bf16"] if supports_bfloat16(device) else [])]


def seconds(
    call: Callable[[], object],
    device: torch.device,
    repeats: int = 5,
    before: Callable[[], object] | None = None,
) -> float:
    """Return the median time of a call after a warm-up; `before` runs before each call and is not timed."""
    call()
    times = []
    for _ in range(repeats):
        if before:
            before()
        times.append(seconds_once(call, device))
    return statistics.median(times)


def seconds_once(call: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call; on a GPU it is measured by two events on the stream."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        torch.cuda.synchronize(device)
        return first.elapsed_time(last) / 1e3
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class GemmBaseline:
    """The rate of a square matrix product, sampled throughout a measurement.

    The speed of shared hardware changes over time, and a ratio needs both sides from the same minutes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = {precision: [] for precision in precisions(device)}

    def sample(self) -> None:
        """Time one product in every precision, after one warm-up product."""
        # Created anew each time, since it would count as memory of the measured step.
        pair = torch.randn(2, SIDE, SIDE, device=self.device)
        for precision, times in self.times.items():
            product = partial(torch.matmul, *pair.to(DTYPES[precision]))
            # The caller may have enabled autocast, which would compute the float32 product in bfloat16.
            with torch.autocast(self.device.type, enabled=False):
                product()
                times.append(seconds_once(product, self.device))

    def gflops(self, precision: str) -> float:
        """Return the median rate so far, in 10^9 operations per second."""
        return 2 * SIDE**3 / statistics.median(self.times[precision]) / 1e9

    def rates(self) -> dict[str, float | None]:
        """Return `gemm_gflops_fp32` and `gemm_gflops_bf16`; `None` without instructions for the precision."""
        return {f"gemm_gflops_{p}": self.gflops(p) if p in self.times else None for p in DTYPES}


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of `peak_gb` (on Linux and on a GPU; elsewhere the peak cannot be reset)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        release_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(device: torch.device) -> float:
    """Return the peak memory since `reset_peak` in 10^9 bytes, of the GPU or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def describe_device(device: torch.device) -> str:
    """Return the name of a GPU, or the number of threads and the instruction set of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {torch.get_num_threads()} threads, {capability}"
