"""A notice, once in a run, that steps wait for data: how much time is lost, and how many workers would do.

The share of each step is in the log (`data_share`): time in which nothing is computed, on a GPU, too.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from xvlm import distributed
from xvlm.common.hardware import usable_cores
from xvlm.common.terminal import print_notice

MAX_SHARE = 0.1
"""Share of the time spent waiting above which the notice is printed."""
WARM_UP_STEPS = 5
"""Steps of a session that do not count: workers start, and kernels are compiled."""
WINDOW_STEPS, WINDOW_SECONDS = 50, 10.0
"""Least length of the windows over which the share is averaged.

What workers have read ahead during a long first step or an evaluation lasts for two steps of each worker, so
the first window may not show what the next one does.
"""


def ranks_here() -> int:
    """Return the number of ranks on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))


def needed_workers(
    workers: int, waiting: float, total: float, cores: int | None = None, ranks: int = 1
) -> int:
    """Return how many workers of each rank would read as fast as steps compute.

    Workers that are waited for are always busy.  More of them than there are cores take turns, and then as
    many as there are cores count.

    Args:
        workers: workers of each rank; 0 reads in the training process.
        waiting: seconds of waiting in `total` seconds of steps.
        cores: cores of this machine; by default those that this process may use.
        ranks: ranks on this machine.
    """
    computing = max(total - waiting, 1e-3 * total)
    if workers == 0:
        needed = waiting / computing
    else:
        busy = min(workers, max(1, (cores or usable_cores()) // ranks))
        needed = busy * total / computing
    return max(1, math.ceil(needed - 1e-6))  # sums of times are not exact


@dataclass
class StarvationNotice:
    """Averages how long steps wait, and prints the notice of the main rank, at most once.

    Attributes:
        workers: processes that read data for each rank; 0 reads in the training process.
        cores: processor cores of this machine.
        ranks: ranks on this machine.
        is_done: whether the notice has been printed.
    """

    workers: int
    cores: int = field(default_factory=usable_cores)
    ranks: int = field(default_factory=ranks_here)
    is_done: bool = False
    _steps: int = -WARM_UP_STEPS
    _waiting: float = 0.0
    _total: float = 0.0

    def add(self, waiting: float, total: float) -> None:
        """Count a step of `total` seconds, `waiting` of which it waited for its data."""
        self._steps += 1
        if self.is_done or self._steps <= 0:
            return
        self._waiting += waiting
        self._total += total
        if self._steps < WINDOW_STEPS or self._total < WINDOW_SECONDS:
            return
        if self._waiting > MAX_SHARE * self._total:
            self.is_done = True
            if distributed.is_main():
                print_notice(self.sentence())
        self._steps, self._waiting, self._total = 0, 0.0, 0.0

    def sentence(self) -> str:
        """Return what is lost in the present window, and what would help."""
        lost = f"{self._waiting / self._total:.0%} of the time of {self._steps} steps was spent on "
        needed = needed_workers(self.workers, self._waiting, self._total, self.cores, self.ranks)
        here = f"this machine has {self.cores} core{'s' if self.cores > 1 else ''}"
        if self.ranks > 1:
            here += f" for {self.ranks} ranks"
        if self.workers:
            text = f"{lost}waiting for data: --workers is {self.workers}, about {needed} would be needed"
        else:
            text = f"{lost}reading data in the training process (--workers 0): --workers {needed} would help"
        if needed * self.ranks > self.cores:
            return f"{text}, but {here}; images that are stored smaller are read faster"
        return f"{text}; {here}"
