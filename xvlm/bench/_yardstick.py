"""What the machine gives: its matrix-product rate, the time of a call, the memory at its peak."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from xvlm.machine import give_back_freed_memory, multiplies_bfloat16

SIDE = 2048
"""Of the square matrices whose product is the yardstick (design, section 6)."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precisions(device: torch.device) -> list[str]:
    """Those of "fp32" and "bf16" that the device multiplies in hardware."""
    return ["fp32", *(["bf16"] if multiplies_bfloat16(device) else [])]


def seconds(
    call: Callable[[], object],
    device: torch.device,
    repeats: int = 5,
    before: Callable[[], object] | None = None,
) -> float:
    """Median time of a call, after one that does not count; `before` runs before each and is not timed."""
    call()
    times = []
    for _ in range(repeats):
        if before:
            before()
        times.append(seconds_once(call, device))
    return statistics.median(times)


def seconds_once(call: Callable[[], object], device: torch.device) -> float:
    """The time of a call; on a GPU between two events on its stream."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        torch.cuda.synchronize(device)
        return first.elapsed_time(last) / 1e3
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


class Yardstick:
    """The rate of a square matrix product, sampled all through a measurement: what a machine gives changes
    while other machines share its chips, and a ratio needs both sides from the same minutes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = {precision: [] for precision in precisions(device)}

    def sample(self) -> None:
        """A product in every precision, after one that does not count."""
        sides = torch.randn(2, SIDE, SIDE, device=self.device)  # not kept: it would count as a step's memory
        for precision, times in self.times.items():
            product = partial(torch.matmul, *sides.to(DTYPES[precision]))
            # What is measured may run under autocast, which would take float32 for bfloat16.
            with torch.autocast(self.device.type, enabled=False):
                product()
                times.append(seconds_once(product, self.device))

    def gflops(self, precision: str) -> float:
        """10^9 operations a second, the median so far."""
        return 2 * SIDE**3 / statistics.median(self.times[precision]) / 1e9

    def rates(self) -> dict[str, float | None]:
        """`gemm_gflops_fp32` and `gemm_gflops_bf16`; `None` where the device has no instructions for it."""
        return {f"gemm_gflops_{p}": self.gflops(p) if p in self.times else None for p in DTYPES}


def forget_peak(device: torch.device) -> None:
    """From here on, `peak_gb` counts anew (on Linux and on a GPU; elsewhere it cannot)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        give_back_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(device: torch.device) -> float:
    """The most memory since `forget_peak`, in 10^9 bytes: of the GPU, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def told(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {torch.get_num_threads()} threads, {capability}"
