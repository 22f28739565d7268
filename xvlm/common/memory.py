"""Memory of the process: what the C library keeps, and what it returns to the system."""

from __future__ import annotations

import ctypes
import os
import sys

# Options of glibc's mallopt in <malloc.h>; the values disable trimming, and mmap for large blocks.
_M_TRIM_THRESHOLD, _NO_TRIMMING = -1, -1
_M_MMAP_MAX, _NO_MMAP = -4, 0


def keep_freed_memory() -> bool:
    """Make the process keep the memory that it frees, and use huge pages for large tensors.

    A training step on a CPU allocates and frees the same large tensors again and again.  By default the C
    library returns each of them to the kernel, which then clears new pages of 4 kB: 300,000 page faults in a
    step of the base model (docs/performance.md).  Call this function before the first large tensor is
    allocated; later calls are harmless.  It only has an effect with glibc.

    Returns:
        whether the C library accepted the setting.
    """
    # PyTorch's allocator reads this variable at its first large allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _NO_TRIMMING) and mallopt(_M_MMAP_MAX, _NO_MMAP))


def release_freed_memory() -> None:
    """Return the memory that is free now to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
