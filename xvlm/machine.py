"""What has to be known of the machine: how it hands out memory, and which precisions it computes in."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from xvlm.terminal import notice

# <malloc.h> of glibc: options, and the values that switch off giving back and memory apart from the heap
_M_TRIM_THRESHOLD, _NO_TRIMMING = -1, -1
_M_MMAP_MAX, _NO_MMAP = -4, 0


def reuse_freed_memory() -> bool:
    """From here on this process keeps what it frees, and large tensors lie in huge pages.

    A step on a CPU allocates and frees the same large tensors again and again.  By default the C library
    gives each of them back to the kernel, which hands it out anew in cleared pages of 4 kB: for the base
    model 300,000 page faults a step (docs/performance.md).  Call it before the first large tensor is made; it
    may be called again.  Only glibc knows how: elsewhere nothing happens.

    Returns:
        whether it is so.
    """
    # Read by PyTorch's allocator when it makes its first large tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _NO_TRIMMING) and mallopt(_M_MMAP_MAX, _NO_MMAP))


def give_back_freed_memory() -> None:
    """What is free now goes back to the system after all, so that what is used next can be seen apart."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for it; a CPU without them takes hundreds of times as long as in fp32."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def usable_precision(precision: str, device: torch.device) -> str:
    """The "fp32" or "bf16" that was asked for; "fp32", with a line that says so, where bf16 would crawl."""
    if precision != "bf16" or multiplies_bfloat16(device):
        return precision
    notice(f"this {device.type.upper()} has no instructions for bfloat16: fp32 is used")
    return "fp32"
