"""The order of samples in an endless training stream.

The order is a pure function of (seed, epoch, window): shards are permuted, then samples within windows of
consecutive shards, so that reads stay local.  Sources are interleaved by weight.  There is no state: a run
resumes at a later position.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xvlm.common.errors import InputError

WINDOW = 16
"""Number of shards whose samples are shuffled together."""

Indices = NDArray[Any]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class SamplePosition:
    """A source, an index in it, and the epoch of that source, counted from 0."""

    source: int
    index: int
    epoch: int


class Order:
    """`order[position]` is the `SamplePosition` of any position from 0 up.

    Each source has its own epochs, in which every sample occurs once.  In any prefix of the stream, the
    number of samples of a source differs from its share by at most (1 + 1/1 + 1/2 + ... + 1/k) / 2 for the
    k-th of the lighter sources, or 1 for a mixture of two.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        shards: Sequence[Sequence[int] | None] | None = None,
        window: int = WINDOW,
    ) -> None:
        """Interleave sources.

        Args:
            lengths: number of samples of each source.
            weights: weight of each source, on any positive scale; by default its length, so that the epochs
                of all sources end together.
            seed: 0 to 2**32 - 1.
            shards: sizes of the shards of each source, in the order of their indices; `None` is one shard.  A
                source of no more than `window` shards is shuffled completely.
            window: number of shards whose samples are shuffled together.
        Raises:
            InputError: an argument is out of range, or lists do not match; the message names it.
        """
        if not lengths or min(lengths) < 1:
            raise InputError(f"lengths are {list(lengths)}; every source needs at least one sample")
        if not 0 <= seed < 2**32 or window < 1:
            raise InputError(f"seed is {seed} and window {window}; they must be in [0, 2**32) and at least 1")
        shards = [None] * len(lengths) if shards is None else shards
        if len(shards) != len(lengths):
            raise InputError(f"shards are given for {len(shards)} sources, lengths for {len(lengths)}")
        self.shares = _integer_shares(lengths if weights is None else weights, len(lengths))
        self._heaviest_first = sorted(range(len(lengths)), key=lambda source: -self.shares[source])
        self._epoch_orders = [
            _EpochOrder(length, sizes, (seed, source), window)
            for source, (length, sizes) in enumerate(zip(lengths, shards, strict=True))
        ]

    def __getitem__(self, position: int) -> SamplePosition:
        if position < 0:
            raise IndexError(f"position is {position}; the order starts at 0 and has no end")
        source, nth = self._source_at(position)
        return SamplePosition(source, *self._epoch_orders[source][nth])

    def a_window_later(self, position: int) -> SamplePosition:
        """Return the sample of the same source that comes as many samples later as a window has.

        The shards of a window can so be copied while the window before is read.
        """
        source, nth = self._source_at(position)
        epochs = self._epoch_orders[source]
        return SamplePosition(source, *epochs[nth + epochs.window_samples])

    def step(self, step: int, global_batch: int, rank: int = 0, world_size: int = 1) -> range:
        """Return the positions that `rank` reads at a step: a slice of [step, step + 1) * global_batch."""
        if global_batch < 1 or global_batch % world_size:
            raise InputError(f"global batch {global_batch} cannot be split evenly into {world_size} ranks")
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank}; with {world_size} ranks it must be in [0, {world_size})")
        batch = global_batch // world_size
        first = step * global_batch + rank * batch
        return range(first, first + batch)

    def _source_at(self, position: int) -> tuple[int, int]:
        """Return the source at a position, and the number of its samples at earlier positions.

        The heaviest source gets the positions at which its rounded share of the prefix grows.  The remaining
        positions, renumbered, are assigned to the other sources by the same rule.  The arithmetic is in whole
        numbers and therefore exact, however long the run is.
        """
        remaining = sum(self.shares)
        for source in self._heaviest_first[:-1]:
            share = self.shares[source]
            before = _rounded(position * share, remaining)
            if _rounded((position + 1) * share, remaining) > before:
                return source, before
            position -= before
            remaining -= share
        return self._heaviest_first[-1], position


class _EpochOrder:
    """The epochs of one source: `order[n]` is (index, epoch) of its n-th sample.  Caches two windows."""

    def __init__(self, length: int, shards: Sequence[int] | None, key: tuple[int, int], window: int) -> None:
        self.length = length
        self.sizes = np.asarray([length] if shards is None else shards, dtype=np.int64)
        if self.sizes.min(initial=0) < 0 or self.sizes.sum() != length:
            raise InputError(f"source {key[1]}: its shards hold {self.sizes.sum()}, its length is {length}")
        self.first_index = np.cumsum(self.sizes) - self.sizes
        self.key, self.window = key, window
        self.window_samples = min(length, -(-window * length // max(1, len(self.sizes))))
        self._layouts: OrderedDict[int, tuple[Indices, Indices]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], Indices] = OrderedDict()

    def __getitem__(self, nth: int) -> tuple[int, int]:
        epoch, offset = divmod(nth, self.length)
        _, ends = _cached(self._layouts, epoch, self._layout)
        window = int(np.searchsorted(ends, offset, side="right"))
        start = int(ends[window - 1]) if window else 0
        return int(_cached(self._windows, (epoch, window), self._shuffled)[offset - start]), epoch

    def _layout(self, epoch: int) -> tuple[Indices, Indices]:
        """Return the order of the shards in an epoch, and the offset at which each window ends."""
        shard_order = self._rng(epoch, 0).permutation(len(self.sizes))
        window_sizes = np.add.reduceat(self.sizes[shard_order], np.arange(0, len(shard_order), self.window))
        return shard_order, np.cumsum(window_sizes)

    def _shuffled(self, epoch_window: tuple[int, int]) -> Indices:
        """Return the shuffled sample indices of a window."""
        epoch, window = epoch_window
        shard_order, _ = _cached(self._layouts, epoch, self._layout)
        shards = shard_order[window * self.window : (window + 1) * self.window]
        blocks = [self.first_index[shard] + np.arange(self.sizes[shard]) for shard in shards]
        # 32 bits if possible: a source without shards is one window, and every worker has a copy.
        dtype = np.uint32 if self.length < 2**32 else np.int64
        indices = np.concatenate(blocks, dtype=dtype, casting="unsafe")
        self._rng(epoch, 1 + window).shuffle(indices)
        return indices

    def _rng(self, epoch: int, purpose: int) -> np.random.Generator:
        # Always four words, because numpy seeds [1, 2] and [1, 2, 0] alike.
        return np.random.default_rng([*self.key, epoch, purpose])


def _cached(cache: OrderedDict[K, V], key: K, compute: Callable[[K], V]) -> V:
    """Return `compute(key)`, from a cache of the last two keys."""
    if key not in cache:
        cache[key] = compute(key)
        if len(cache) > 2:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def _integer_shares(weights: Sequence[float], sources: int) -> list[int]:
    """Return the smallest whole numbers in exactly the proportions of `weights`."""
    if len(weights) != sources:
        raise InputError(f"{len(weights)} weights are given for {sources} sources")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise InputError(f"weights are {list(weights)}; each must be positive (leave out unused sources)")
    fractions = [Fraction(weight) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    shares = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*shares)
    return [share // divisor for share in shares]


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
