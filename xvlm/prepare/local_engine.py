"""Make shards by processes on this machine, a shard a task."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from xvlm.common.errors import WorkerDiedError
from xvlm.common.memory import keep_freed_memory
from xvlm.prepare.shard_report import ShardReport
from xvlm.prepare.work import Work

TRIES = 3
"""Times that a shard is begun whose process dies."""
_WAITING = 2
"""Shards that wait for each process, so that none is idle."""


def make_locally(
    works: Iterator[Work], make: Callable[[Work], ShardReport], workers: int
) -> Iterator[tuple[Work, ShardReport]]:
    """Yield each shard with its report, in any order.

    A process that dies takes the shards with it that were being made; they are made again by new processes.

    Args:
        workers: number of processes; 1 makes them in this one.
    Raises:
        WorkerDiedError: processes that made the same shard died three times.
    """
    if workers == 1:
        for work in works:
            yield work, make(work)
        return
    died: Counter[str] = Counter()
    again: list[Work] = []
    pending: dict[Future[ShardReport], Work] = {}
    pool = _new_pool(workers)
    try:
        while True:
            room = _WAITING * workers - len(pending)
            for work in [*again[:room], *islice(works, max(0, room - len(again)))]:
                pending[pool.submit(make, work)] = work
            again = again[room:]
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            broken: list[Work] = []
            for future in done:
                work = pending.pop(future)
                try:
                    yield work, future.result()
                except BrokenProcessPool:
                    broken.append(work)
            if broken:
                broken += pending.values()  # they fail as well, since one dead process ends the pool
                pending.clear()
                pool.shutdown(wait=True, cancel_futures=True)
                died.update(work.name for work in broken)
                if most := [name for name, count in died.items() if count >= TRIES]:
                    raise WorkerDiedError(
                        f"processes that made the shard {most[0]} died {TRIES} times; with --workers 1 its "
                        "cause shows, which may be a lack of memory"
                    )
                again += broken
                pool = _new_pool(workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _new_pool(workers: int) -> ProcessPoolExecutor:
    # A fork would inherit threads of other libraries in an unknown state.  Processes keep the memory of
    # images: the system clears what is returned to it, which takes a sixth of the time.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=keep_freed_memory)
