"""Cores of the process, and the precisions that the hardware computes in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

from xvlm.common.errors import InputError
from xvlm.common.terminal import print_notice


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Make a GPU add in a fixed order, so that equal calls have equal results; `enabled` may be False.

    Operations without such an order raise an error.  cuBLAS reads its setting when it is first used, so enter
    the context before the first product.
    """
    options: Any = deterministic  # its property is not declared for type checkers
    before, fill_before = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        options.fill_uninitialized_memory = False  # nothing here reads memory before writing it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        options.fill_uninitialized_memory = fill_before


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions.

    A CPU without them emulates bfloat16, which takes hundreds of times as long as float32.
    """
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def usable_precision(precision: str, device: torch.device) -> str:
    """Return `precision`, or "fp32" (with a notice) if it is "bf16" and the device would emulate that."""
    if precision != "bf16" or supports_bfloat16(device):
        return precision
    print_notice(f"this {device.type.upper()} has no instructions for bfloat16: fp32 is used")
    return "fp32"


def autocast(device: torch.device, precision: str) -> Any:
    """Return the context of a precision, "fp32" or "bf16"; float16 is never used."""
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision is {precision!r}; it may be 'fp32' or 'bf16'")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
