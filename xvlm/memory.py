"""Memory that is freed is used again, without going back to the system in between.

A step on a CPU allocates and frees the same large tensors again and again.  By default the C library
gives each of them back to the kernel, which hands it out anew in cleared pages of 4 kB: for the base model
300,000 page faults a step, a seventh of its time (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def reuse_freed_memory() -> bool:
    """From here on this process keeps what it frees, and large tensors lie in huge pages.

    Call it before the first large tensor is made; it may be called again.  Only glibc knows how: elsewhere
    nothing happens.

    Returns:
        whether it is so.
    """
    # Read by PyTorch's allocator when it makes its first large tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(option, _NEVER) == 1 for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)
    )
