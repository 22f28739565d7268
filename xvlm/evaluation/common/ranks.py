"""Splitting of samples over ranks, and gathering of what every rank computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from xvlm import distributed

T = TypeVar("T")


def rank_slice(count: int) -> slice:
    """Return this rank's slice of `count` items; the slices of two ranks differ by at most one item."""
    rank, world_size = distributed.rank(), distributed.world_size()
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate the (N, ...) rows of all ranks, in the order of ranks, however long one of them works."""
    return distributed.all_gather(x, distributed.gather_objects(len(x)))


def gather_in_order(indexed: Sequence[tuple[int, T]]) -> list[T]:
    """Gather (index, item) pairs from all ranks, and return the items in the order of their indices."""
    return [item for _, item in sorted(distributed.gather_lists(list(indexed)), key=lambda pair: pair[0])]
