"""The processes of an attempt agree on a name, though the store still holds those of earlier attempts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from xvlm.common.rendezvous import agree_on_attempt

RANKS = 3


def test_each_attempt_has_a_name_of_its_own() -> None:
    store, names = dist.HashStore(), set()
    with ThreadPoolExecutor(RANKS) as pool:
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
            started = [
                pool.submit(agree_on_attempt, store, rank, RANKS, timedelta(seconds=60)) for rank in order
            ]
            (name,) = {future.result() for future in started}
            names.add(name)
    assert len(names) == 3


@pytest.mark.parametrize("rank", range(2))
def test_a_rank_that_is_missing_is_an_error(rank: int) -> None:
    """Also if it answered in an earlier attempt."""
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: agree_on_attempt(store, one, 2, timedelta(seconds=60)), range(2)))
    with pytest.raises(RuntimeError):
        agree_on_attempt(store, rank, 2, timedelta(seconds=0.3))
