"""The order of samples: each once per epoch, in proportion, with local reads, for any number of ranks."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvlm.data.loading.order import Order

seeds = st.integers(0, 2**32 - 1)
shard_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
mixtures = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def indices(order: Order, start: int, stop: int) -> list[int]:
    return [order[position].index for position in range(start, stop)]


@given(shard_sizes, seeds, st.integers(1, 5))
def test_each_epoch_has_every_sample_once(sizes: list[int], seed: int, window: int) -> None:
    length = sum(sizes)
    order = Order([length], seed=seed, shards=[sizes], window=window)
    for epoch in range(3):
        samples = [order[position] for position in range(epoch * length, (epoch + 1) * length)]
        assert sorted(sample.index for sample in samples) == list(range(length))
        assert {(sample.source, sample.epoch) for sample in samples} == {(0, epoch)}


@given(shard_sizes, seeds, st.integers(1, 5))
def test_reads_stay_within_a_window_of_shards(sizes: list[int], seed: int, window: int) -> None:
    order = Order([sum(sizes)], seed=seed, shards=[sizes], window=window)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    first_reads: list[int] = []  # shards in the order of their first read
    for index in indices(order, 0, sum(sizes)):
        if shard_of[index] not in first_reads:
            first_reads.append(int(shard_of[index]))
    reads = [first_reads.index(int(shard_of[index])) for index in indices(order, 0, sum(sizes))]
    for position, nth_shard in enumerate(reads):
        assert max(reads[: position + 1]) - nth_shard < window, (
            "a shard was read again after the window had passed it"
        )


def test_shuffling_crosses_shards_within_a_window_only() -> None:
    order = Order([400], shards=[[10] * 40], window=4)
    reads = [index // 10 for index in indices(order, 0, 400)]
    windows = [set(reads[start : start + 40]) for start in range(0, 400, 40)]
    assert all(len(window) == 4 for window in windows)
    assert all(len(set(reads[start : start + 10])) > 1 for start in range(0, 400, 40))
    later = [index // 10 for index in indices(order, 400, 800)]
    assert {frozenset(window) for window in windows} != {
        frozenset(later[start : start + 40]) for start in range(0, 400, 40)
    }, "the next epoch combines other shards"


def test_epochs_seeds_and_sources_differ_and_are_deterministic() -> None:
    for shards in (None, [[25] * 40, [25] * 40]):
        order = Order([1000, 1000], seed=1, shards=shards)
        orders = [
            [
                sample.index
                for sample in map(order.__getitem__, range(epoch * 2000, (epoch + 1) * 2000))
                if sample.source == source
            ]
            for epoch in range(2)
            for source in range(2)
        ]
        other = Order([1000], seed=2, shards=shards and shards[:1])
        orders.append(indices(other, 0, 1000))
        assert len({tuple(one) for one in orders}) == 5
        again = Order([1000, 1000], seed=1, shards=shards)
        assert all(again[position] == order[position] for position in (3999, 0, 2000, 17))


def test_every_order_of_three_is_equally_likely() -> None:
    counts = Counter(tuple(indices(Order([3], seed=seed), 0, 3)) for seed in range(1800))
    assert len(counts) == 6 and max(abs(count - 300) for count in counts.values()) < 70


@given(mixtures, seeds, st.data())
def test_prefixes_have_each_source_in_proportion(weights: list[int], seed: int, data: st.DataObject) -> None:
    floats = data.draw(st.sampled_from([1.0, 0.1, 1 / 3]))
    order = Order([7] * len(weights), [weight * floats for weight in weights], seed)
    bound = (1 + sum(1 / k for k in range(1, len(weights)))) / 2
    counts: Counter[int] = Counter()
    for position in range(300):
        counts[order[position].source] += 1
        for source, weight in enumerate(weights):
            assert abs(counts[source] - (position + 1) * weight / sum(weights)) <= bound + 1e-6


@given(mixtures, seeds)
def test_by_default_the_epochs_of_all_sources_end_together(lengths: list[int], seed: int) -> None:
    order = Order(lengths, seed=seed)
    for epoch in range(2):
        samples = [order[epoch * sum(lengths) + position] for position in range(sum(lengths))]
        assert len(set(samples)) == len(samples)
        assert {sample.epoch for sample in samples} == {epoch}


def test_each_source_has_its_own_epochs() -> None:
    order = Order([4, 100], weights=[1, 1])
    samples = [order[position] for position in range(80)]
    small = [sample for sample in samples if sample.source == 0]
    large = [sample for sample in samples if sample.source == 1]
    assert [sample.epoch for sample in small] == [n // 4 for n in range(40)]
    assert len({sample.index for sample in large}) == 40
    for start in range(0, 40, 4):
        assert {sample.index for sample in small[start : start + 4]} == {0, 1, 2, 3}


def test_many_light_sources_do_not_displace_a_heavy_one() -> None:
    order = Order([7] * 21, weights=[1] * 20 + [1000])
    heavy = 0
    for position in range(1100):
        heavy += order[position].source == 20
        assert abs(heavy - (position + 1) * 1000 / 1020) <= 0.5 + 1e-6


def test_shares_stay_exact_far_into_a_run() -> None:
    order = Order([10, 10, 10], weights=[0.1, 0.2, 0.7])
    start = 10**15
    counts = Counter(order[start + position].source for position in range(1000))
    assert all(abs(counts[source] - share) <= 3 for source, share in enumerate((100, 200, 700)))


@given(st.integers(0, 50), st.integers(1, 8), st.integers(1, 5))
def test_ranks_split_a_step(step: int, world_size: int, batch: int) -> None:
    order = Order([5])
    total = world_size * batch
    union = [p for rank in range(world_size) for p in order.step(step, total, rank, world_size)]
    assert union == list(order.step(step, total)) == list(range(step * total, (step + 1) * total))


def test_tens_of_millions_of_samples() -> None:
    order = Order([20_000_000, 30_000_000], shards=[None, [10_000] * 3000])
    samples = [order[position] for position in (0, 1, 123_456_789)]
    assert {sample.source for sample in samples} == {0, 1}
    assert max(sample.epoch for sample in samples) == 2


def test_pickles() -> None:
    order = Order([50, 30], shards=[None, [10, 20]], seed=3)
    before = [order[position] for position in range(100)]
    copy = pickle.loads(pickle.dumps(order))
    assert [copy[position] for position in range(100)] == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Order([]), "at least one sample"),
        (lambda: Order([3, 0]), "at least one sample"),
        (lambda: Order([3], seed=-1), "seed is -1"),
        (lambda: Order([3], window=0), "window 0"),
        (lambda: Order([3], shards=[[1, 1]]), "its length is 3"),
        (lambda: Order([3], shards=[[4, -1]]), "its length is 3"),
        (lambda: Order([3, 3], shards=[None]), "given for 1 sources"),
        (lambda: Order([3, 3], weights=[1.0]), "1 weights"),
        (lambda: Order([3, 3], weights=[1.0, 0.0]), "must be positive"),
        (lambda: Order([3, 3], weights=[1.0, float("nan")]), "must be positive"),
        (lambda: Order([3]).step(0, 10, 0, 4), "cannot be split evenly into 4 ranks"),
        (lambda: Order([3]).step(0, 8, 4, 4), "rank is 4"),
    ],
)
def test_errors_name_the_argument(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_negative_positions_do_not_exist() -> None:
    with pytest.raises(IndexError, match="starts at 0"):
        Order([3])[-1]
