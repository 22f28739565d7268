"""Runs a function in several processes that are joined as by `torchrun`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

PRELOADED = ["xvlm.training.train", "xvlm.training.sharding", "torch.distributed.checkpoint", "torch._dynamo"]
"""Imported once in a process of the tests, from which all its ranks are forked: imports take seconds."""
Job = Callable[[Path], Any]
"""Takes a folder that both processes share; `torch.save` saves its result."""


def on_two_ranks(job: Job, folder: Path, seconds: float = 600.0) -> list[Any]:
    """Return the results of rank 0 and rank 1; see `on_ranks`."""
    return on_ranks(2, job, folder, seconds)


def on_ranks(count: int, job: Job, folder: Path, seconds: float = 600.0) -> list[Any]:
    """Return the result of each rank.  Raises an error if a process hangs or fails."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store_{time.monotonic_ns()}"  # a used one names processes that ended
    torch.multiprocessing.set_forkserver_preload(PRELOADED)
    context = torch.multiprocessing.start_processes(
        _rank, (count, store, job, folder), nprocs=count, join=False, start_method="forkserver"
    )
    assert context is not None
    end = time.monotonic() + seconds
    while not context.join(timeout=1):  # raises the error of a process
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{job.__name__} hangs on {count} ranks")
    return [torch.load(folder / f"result_{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank: int, count: int, store: Path, job: Job, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count)
    torch.save(job(folder), folder / f"result_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
