"""Batches do not depend on workers, on ranks or on the first step; bad records are replaced and reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from xvlm.common.errors import MissingPackageError
from xvlm.data.loading.loader import StepData, StepDataset
from xvlm.data.loading.streams import ATTEMPTS, DataStream
from xvlm.data.loading.workers import WorkerStream
from xvlm.records import BadRecord, Record


@dataclass
class Numbers:
    """A source of `length` records, of which those in `broken` cannot be read."""

    name: str
    length: int
    broken: frozenset[int] = frozenset()
    shards: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self.shards = [self.length]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> Record:
        if index in self.broken:
            raise BadRecord("image does not decode", detail=f"index {index}")
        return Record(key=f"{self.name}/{index}", image=b"", concepts=(), extra={"index": index})


def noisy(record: Record, rng: np.random.Generator) -> tuple[str, float, float]:
    return record.key, float(rng.random()), float(torch.rand(()))


def key_only(record: Record, rng: np.random.Generator) -> str:
    return record.key


@dataclass
class Batch:
    samples: dict[str, list[Any]]
    pinned: bool = False

    def pin_memory(self) -> Batch:
        return Batch(self.samples, True)


def toy_steps(**options: Any) -> StepDataset:
    pairs = DataStream("pairs", [Numbers("a", 37), Numbers("b", 11)], 8, noisy)
    regions = DataStream("regions", [Numbers("c", 23, frozenset({3, 4, 5}))], 4, noisy, window=2)
    return StepDataset([pairs, regions], Batch, seed=5, **options)


def one_stream(source: Numbers, build_sample: Any, batch: int = 1, seed: int = 0) -> StepDataset:
    return StepDataset([DataStream("pairs", [source], batch, build_sample)], Batch, seed)


def plain(steps: Iterable[StepData]) -> list[Any]:
    return [(data.step, data.batches, data.keys, data.read, list(map(str, data.bad))) for data in steps]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_does_not_matter() -> None:
    without = plain(WorkerStream(toy_steps(), range(9)))
    assert [step for step, *_ in without] == list(range(9))
    for workers in (1, 2, 3):
        assert plain(WorkerStream(toy_steps(), range(9), workers)) == without


def test_a_later_first_step_yields_the_same_steps() -> None:
    steps = plain(WorkerStream(toy_steps(), range(9)))
    assert plain(WorkerStream(toy_steps(), range(5, 9), workers=2)) == steps[5:]


def test_ranks_together_read_what_one_rank_reads() -> None:
    one = toy_steps()
    two = [toy_steps(rank=rank, world_size=2) for rank in range(2)]
    for step in range(6):
        full, halves = one[step], [steps[step] for steps in two]
        for stream in ("pairs", "regions"):
            joined = [sample for half in halves for sample in half.batches[0].samples[stream]]
            assert joined == full.batches[0].samples[stream]
            assert halves[0].keys[stream] + halves[1].keys[stream] == full.keys[stream]
        assert sum(half.read for half in halves) == full.read


def test_micro_batches_are_consecutive_slices() -> None:
    full, split = toy_steps()[3], toy_steps(accumulation_steps=4)[3]
    assert len(split.batches) == 4
    assert [len(batch.samples["pairs"]) for batch in split.batches] == [2] * 4
    joined = [sample for batch in split.batches for sample in batch.samples["regions"]]
    assert joined == full.batches[0].samples["regions"]
    assert split.keys == full.keys


@pytest.mark.parametrize("ratio", [0.5, 0.3, 1.0])
def test_a_stream_may_have_separate_optimizer_steps(ratio: float) -> None:
    """They are in the given fraction of steps, evenly spaced, before the common step, and skip no sample."""
    pairs = DataStream("pairs", [Numbers("a", 37)], 8, noisy)
    regions = DataStream("regions", [Numbers("c", 23)], 4, noisy)
    alone = StepDataset([regions], Batch, seed=5)
    streams = [pairs, replace(regions, separate_step_ratio=ratio)]
    steps = StepDataset(streams, Batch, seed=5, accumulation_steps=2)
    assert steps.has_separate_steps and not alone.has_separate_steps
    count = 0
    for step in range(20):
        data = steps[step]
        assert data.keys["pairs"] == StepDataset([pairs], Batch, seed=5)[step].keys["pairs"]
        assert [list(batch.samples) for batch in data.by_optimizer_step()[-1]] == [["pairs"]] * 2
        if "regions" in data.keys:
            assert data.keys["regions"] == alone[count].keys["regions"]
            assert [list(batch.samples) for batch in data.by_optimizer_step()[0]] == [["regions"]] * 2
            count += 1
        assert data.optimizer_steps == 1 + ("regions" in data.keys)
        assert abs(count - ratio * (step + 1)) < 1
    assert count == round(20 * ratio)


@pytest.mark.parametrize("ratios", [(0.5, 0.5), (0.0, 1.5), (-0.1, 0.0)])
def test_ratios_that_leave_steps_empty_are_an_error(ratios: tuple[float, float]) -> None:
    streams = [
        DataStream(f"p{i}", [Numbers("a", 8)], 2, noisy, separate_step_ratio=ratio)
        for i, ratio in enumerate(ratios)
    ]
    with pytest.raises(ValueError, match=r"separate_step_ratio of the data streams \['p0', 'p1'\]"):
        StepDataset(streams, Batch, seed=0)


def test_a_mixture_reads_every_sample_once_per_epoch() -> None:
    stream = DataStream("pairs", [Numbers("a", 36), Numbers("b", 12)], 8, key_only)
    steps = StepDataset([stream], Batch, seed=0)
    keys = [key for step in range(6) for key in steps[step].keys["pairs"]]
    assert len(set(keys)) == len(keys) == 48
    weighted = StepDataset([replace(stream, weights=[1, 3])], Batch, seed=0)
    keys = [key for step in range(6) for key in weighted[step].keys["pairs"]]
    assert sum(key.startswith("a") for key in keys) == 12


def test_reads_stay_within_a_window_of_the_shards() -> None:
    source = Numbers("a", 40)
    source.shards = [10] * 4
    steps = StepDataset([DataStream("pairs", [source], 10, key_only, window=1)], Batch, seed=0)
    for step in range(4):
        assert len({int(key.removeprefix("a/")) // 10 for key in steps[step].keys["pairs"]}) == 1


def test_seeds_streams_and_positions_sample_differently() -> None:
    streams = [DataStream(name, [Numbers("a", 1)], 4, noisy) for name in ("left", "right")]
    numbers = [
        sample[1:]
        for seed in (0, 1)
        for step in range(3)
        for samples in StepDataset(streams, Batch, seed)[step].batches[0].samples.values()
        for sample in samples
    ]
    assert len(set(numbers)) == len(numbers) == 2 * 3 * 8


def test_torchs_global_generator_is_unchanged() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    toy_steps()[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_records_are_replaced_deterministically_and_reported() -> None:
    steps = [toy_steps()[step] for step in range(6)]
    bad = [one for data in steps for one in data.bad]
    assert {one.key for one in bad} == {"c[3]", "c[4]", "c[5]"}
    assert {one.reason for one in bad} == {"image does not decode"}
    assert all(len(data.keys["regions"]) == 4 for data in steps)
    assert sum(data.read for data in steps) == 6 * 12 + len(bad)
    assert not {"c/3", "c/4", "c/5"} & {key for data in steps for key in data.keys["regions"]}
    assert plain(steps) == plain(toy_steps()[step] for step in range(6))


def test_a_replacement_comes_from_the_same_source() -> None:
    sources = [Numbers("a", 20, frozenset(range(1, 20, 2))), Numbers("b", 20)]
    steps = StepDataset([DataStream("pairs", sources, 10, key_only)], Batch, seed=1)
    keys = [key for step in range(4) for key in steps[step].keys["pairs"]]
    assert sum(key.startswith("b/") for key in keys) == 20
    assert {key for key in keys if key.startswith("a/")} <= {f"a/{index}" for index in range(0, 20, 2)}


def test_a_source_without_usable_records_ends_the_run() -> None:
    message = rf"step 7.* source 'a': {ATTEMPTS} records in a row cannot be used: 20 x .* \(first: a\["
    with pytest.raises(RuntimeError, match=message):
        one_stream(Numbers("a", 5, frozenset(range(5))), key_only)[7]


@dataclass
class Sample:
    bad: tuple[BadRecord, ...]
    read: int


def drops_concepts(record: Record, rng: np.random.Generator) -> Sample:
    if record.extra["index"] == 0:
        raise BadRecord("no text left after cleaning")
    return Sample((BadRecord("box outside the image"),), 5)


def test_dropped_concepts_are_counted_without_losing_the_record() -> None:
    data = one_stream(Numbers("a", 6), drops_concepts, batch=6)[0]
    lost = [one for one in data.bad if one.reason == "no text left after cleaning"]
    dropped = [one for one in data.bad if one.reason == "box outside the image"]
    assert {one.key for one in lost} == {"a/0"}, "the sample builder does not add the key, the reader does"
    assert [one.key for one in dropped] == data.keys["pairs"]
    assert data.read == len(lost) + 6 * 5


def fails_on_three(record: Record, rng: np.random.Generator) -> str:
    if record.extra["index"] == 3:
        raise KeyError("caption")
    return record.key


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_name_step_and_record(workers: int) -> None:
    message = r"step 2, data stream 'pairs', source 'a', record 'a/3': KeyError: 'caption'"
    with pytest.raises(RuntimeError, match=message):
        list(WorkerStream(one_stream(Numbers("a", 4), fails_on_three, batch=4), range(2, 4), workers))


def raises_expected(record: Record, rng: np.random.Generator) -> str:
    raise {
        "a/0": MissingPackageError("this needs the Python package x"),
        "a/1": PermissionError(13, "Permission denied", "shard.tar"),
        "a/2": MemoryError("9 TiB"),
    }[record.key]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        (0, MissingPackageError, "this needs the Python package x"),
        (1, PermissionError, "[Errno 13] Permission denied: 'shard.tar'"),
        (2, MemoryError, "9 TiB"),
    ],
)
def test_expected_errors_are_unchanged(index: int, kind: type[Exception], message: str, workers: int) -> None:
    """With a worker the error is the same; the location and the worker's traceback are notes."""
    steps = one_stream(Numbers("a", 3, frozenset(range(3)) - {index}), raises_expected)
    with pytest.raises(kind) as caught:
        list(WorkerStream(steps, range(2), workers))
    assert str(caught.value) == message
    notes = "\n".join(caught.value.__notes__)
    assert f"step 0, data stream 'pairs', source 'a', record 'a/{index}'" in notes
    assert ("In a data worker:\nTraceback" in notes) == (workers > 0)
    if kind is PermissionError:
        assert caught.value.filename == "shard.tar"  # type: ignore[attr-defined]


def refuses(samples: dict[str, list[Any]]) -> Batch:
    raise TypeError("cannot stack")


def test_errors_of_collate_name_step_and_keys() -> None:
    steps = StepDataset([DataStream("pairs", [Numbers("a", 4)], 1, key_only)], refuses, seed=0)
    with pytest.raises(RuntimeError, match=r"step 6: collate failed on .*a/\d.*TypeError: cannot stack"):
        steps[6]


def threads(record: Record, rng: np.random.Generator) -> int:
    return torch.get_num_threads()


def test_workers_have_one_thread() -> None:
    with WorkerStream(one_stream(Numbers("a", 4), threads), range(100), 2) as stream:
        assert next(stream).batches[0].samples["pairs"] == [1]


def test_pinning_reaches_the_batches() -> None:
    assert all(batch.pinned for batch in toy_steps(accumulation_steps=2)[0].pin_memory().batches)


def test_any_batch_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in plain containers are pinned; objects without tensors or of unknown types are unchanged."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor + 1)
    unknown = object()
    batches = [{"x": torch.zeros(1), "names": ["a"]}, [torch.ones(1)], "text", unknown, Batch({})]
    pinned = StepData(0, batches, {}, 0, []).pin_memory().batches
    assert pinned[0] == {"x": torch.ones(1), "names": ["a"]} and pinned[1] == [2 * torch.ones(1)]
    assert pinned[2:4] == ["text", unknown] and pinned[4].pinned


@pytest.mark.parametrize(
    ("streams", "options", "message"),
    [
        ([], {}, "at least one is needed"),
        ([DataStream("x", [Numbers("a", 4)], 4, key_only)] * 2, {}, "each name only once"),
        (
            [DataStream("x", [Numbers("a", 4)], 6, key_only)],
            {"world_size": 2, "accumulation_steps": 2},
            "6 cannot be split evenly",
        ),
        ([DataStream("x", [Numbers("a", 0)], 6, key_only)], {}, "at least one sample"),
    ],
)
def test_wrong_arguments(streams: list[DataStream], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepDataset(streams, Batch, 0, **options)
