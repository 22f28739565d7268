"""The memory of this process, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path

STATM = Path("/proc/self/statm")


def mebibytes() -> tuple[int, int]:
    """Return (what has addresses, what is in memory)."""
    addresses, resident = STATM.read_text().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(addresses) * page // 2**20, int(resident) * page // 2**20
