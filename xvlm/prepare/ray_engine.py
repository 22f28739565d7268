"""Make shards on a Ray cluster, a shard a task: samples travel to the workers, reports come back.

Each worker reads, checks and writes its shard, so that no decoded image travels.  Ray runs a task again whose
worker has died.  Release and shards must be readable and writable on every worker by the same paths, such as
those of a shared disk or S3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice

import ray

from xvlm.common.memory import keep_freed_memory
from xvlm.prepare.local_engine import TRIES
from xvlm.prepare.shard_report import ShardReport
from xvlm.prepare.work import Work

_WAITING = 2
"""Shards that wait for each worker, so that none is idle; more would fill the memory of the first machine."""


def make_on_ray(
    works: Iterator[Work], make: Callable[[Work], ShardReport], workers: int
) -> Iterator[tuple[Work, ShardReport]]:
    """Yield each shard with its report, in any order.

    The cluster is a local one unless `ray.init` or RAY_ADDRESS names another.

    Args:
        workers: number of shards that are made at a time.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False, num_cpus=None if "RAY_ADDRESS" in os.environ else workers)
    task = ray.remote(num_cpus=1, max_retries=TRIES - 1)(_make)
    shared = ray.put(make)
    pending: dict[ray.ObjectRef, Work] = {}
    while True:
        for work in islice(works, _WAITING * workers - len(pending)):
            pending[task.remote(shared, work)] = work
        if not pending:
            return
        done, _ = ray.wait(list(pending))
        for reference in done:
            yield pending.pop(reference), ray.get(reference)


def _make(make: Callable[[Work], ShardReport], work: Work) -> ShardReport:
    keep_freed_memory()  # as in `local_engine.py`
    return make(work)
