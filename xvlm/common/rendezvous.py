"""Joining of the processes of a job: those of one attempt find each other, and nothing of an earlier one.

torchrun keeps one store for all attempts of a job (PyTorch 2.15), and after a restart ranks would find in it
the addresses of processes that are dead.  The ranks of an attempt therefore agree on a name, under which they
store what is theirs.  torchrun's number of restarts is no such name: it differs between machines.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

import torch.distributed as dist

_POLL_SECONDS = 0.02


def join(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Return a store for this attempt, this process's rank, and the number of ranks.

    Raises ValueError, RuntimeError or OSError if the environment or another process lacks.
    """
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # rank 0 holds the store, which is new
        return store, rank, world_size
    attempt = agree_on_attempt(dist.PrefixStore("attempts", store), rank, world_size, timeout)
    return dist.PrefixStore(attempt, store), rank, world_size


def agree_on_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Return a name that the ranks of this attempt share, and no other attempt has.

    Rank 0 invents a name, and the others answer it with words of their own.  When all have answered, rank 0
    publishes the answers; a rank that finds its own word there knows that the name is not an earlier one.

    Raises RuntimeError if a rank does not answer in time.
    """
    own = os.urandom(8).hex()
    if rank == 0:
        store.set("name", own)
        answers = [f"{own}/{other}" for other in range(1, world_size)]
        store.wait(answers, timeout)
        store.set(own, json.dumps([store.get(answer).decode() for answer in answers]))
        return own
    deadline, answered = time.monotonic() + timeout.total_seconds(), ""
    while time.monotonic() < deadline:
        if store.check(["name"]):
            name = store.get("name").decode()
            if name != answered:
                store.set(f"{name}/{rank}", own)
                answered = name
            if store.check([name]) and json.loads(store.get(name))[rank - 1] == own:
                return name
        time.sleep(_POLL_SECONDS)
    raise RuntimeError("rank 0 does not answer")
