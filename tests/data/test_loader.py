"""The stream of batches does not depend on workers, ranks or where it starts; bad records are counted."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xvlm.data.loader import ATTEMPTS, LOGGED_PER_REASON, BadRecords, Fed, Feed, Part, load
from xvlm.errors import MissingPackageError, TooManyBadRecordsError
from xvlm.records import BadRecord, Record


@dataclass
class Numbers:
    """A source of `length` records; those in `broken` cannot be read."""

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


def feed_of(**options: Any) -> Feed:
    pairs = Part("pairs", [Numbers("a", 37), Numbers("b", 11)], 8, noisy)
    regions = Part("regions", [Numbers("c", 23, frozenset({3, 4, 5}))], 4, noisy, window=2)
    return Feed([pairs, regions], Batch, seed=5, **options)


def plain(stream: Iterable[Fed]) -> list[Any]:
    return [(fed.step, fed.batches, fed.keys, fed.read, [str(one) for one in fed.bad]) for fed in stream]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_do_not_matter() -> None:
    alone = plain(load(feed_of(), 0, 9))
    assert [step for step, *_ in alone] == list(range(9))
    for workers in (1, 2, 3):
        assert plain(load(feed_of(), 0, 9, workers)) == alone


def test_starting_in_the_middle_gives_the_rest() -> None:
    assert plain(load(feed_of(), 5, 9, workers=2)) == plain(load(feed_of(), 0, 9))[5:]


def test_ranks_together_read_what_one_reads() -> None:
    one = feed_of()
    two = [feed_of(rank=rank, world=2) for rank in range(2)]
    for step in range(6):
        whole, halves = one[step], [feed[step] for feed in two]
        for part in ("pairs", "regions"):
            joined = [sample for half in halves for sample in half.batches[0].samples[part]]
            assert joined == whole.batches[0].samples[part]
            assert halves[0].keys[part] + halves[1].keys[part] == whole.keys[part]
        assert sum(half.read for half in halves) == whole.read


def test_micro_batches_are_consecutive_slices() -> None:
    whole, split = feed_of()[3], feed_of(accumulate=4)[3]
    assert len(split.batches) == 4
    assert [len(batch.samples["pairs"]) for batch in split.batches] == [2] * 4
    joined = [sample for batch in split.batches for sample in batch.samples["regions"]]
    assert joined == whole.batches[0].samples["regions"]
    assert split.keys == whole.keys


@pytest.mark.parametrize("share", [0.5, 0.3, 1.0])
def test_a_part_may_take_turns_of_its_own(share: float) -> None:
    """As often as asked, evenly, before the others; it leaves out nothing of its order."""
    pairs = Part("pairs", [Numbers("a", 37)], 8, noisy)
    regions = Part("regions", [Numbers("c", 23)], 4, noisy)
    alone = Feed([regions], Batch, seed=5)
    feed = Feed([pairs, replace(regions, own_turns=share)], Batch, seed=5, accumulate=2)
    assert feed.takes_turns and not alone.takes_turns
    shown = 0
    for step in range(20):
        fed = feed[step]
        assert fed.keys["pairs"] == Feed([pairs], Batch, seed=5)[step].keys["pairs"]
        assert [list(batch.samples) for batch in fed.by_turn()[-1]] == [["pairs"]] * 2
        if "regions" in fed.keys:
            assert fed.keys["regions"] == alone[shown].keys["regions"]
            assert [list(batch.samples) for batch in fed.by_turn()[0]] == [["regions"]] * 2
            shown += 1
        assert fed.turns == 1 + ("regions" in fed.keys)
        assert abs(shown - share * (step + 1)) < 1
    assert shown == round(20 * share)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.0, 1.5), (-0.1, 0.0)])
def test_turns_that_leave_steps_empty_are_an_error(shares: tuple[float, float]) -> None:
    parts = [Part(f"p{i}", [Numbers("a", 8)], 2, noisy, own_turns=share) for i, share in enumerate(shares)]
    with pytest.raises(ValueError, match=r"own_turns of parts \['p0', 'p1'\]"):
        Feed(parts, Batch, seed=0)


def test_a_mixture_reads_every_sample_once_per_pass() -> None:
    part = Part("pairs", [Numbers("a", 36), Numbers("b", 12)], 8, key_only)
    keys = [key for fed in load(Feed([part], Batch, seed=0), 0, 6) for key in fed.keys["pairs"]]
    assert len(set(keys)) == len(keys) == 48
    weighted = Part("pairs", [Numbers("a", 36), Numbers("b", 12)], 8, key_only, weights=[1, 3])
    keys = [key for fed in load(Feed([weighted], Batch, seed=0), 0, 6) for key in fed.keys["pairs"]]
    assert sum(key.startswith("a") for key in keys) == 12


def test_reads_stay_within_a_window_of_the_sources_shards() -> None:
    source = Numbers("a", 40)
    source.shards = [10] * 4
    feed = Feed([Part("pairs", [source], 10, key_only, window=1)], Batch, seed=0)
    for fed in load(feed, 0, 4):
        assert len({int(key.removeprefix("a/")) // 10 for key in fed.keys["pairs"]}) == 1


def test_seeds_parts_and_positions_draw_differently() -> None:
    parts = [Part(name, [Numbers("a", 1)], 4, noisy) for name in ("left", "right")]
    draws = [
        sample[1:]
        for seed in (0, 1)
        for step in range(3)
        for samples in Feed(parts, Batch, seed)[step].batches[0].samples.values()
        for sample in samples
    ]
    assert len(set(draws)) == len(draws) == 2 * 3 * 8


def test_torchs_own_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    feed_of()[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_records_are_replaced_the_same_way_and_reported() -> None:
    fed = [feed_of()[step] for step in range(6)]
    bad = [one for one_step in fed for one in one_step.bad]
    assert {one.key for one in bad} == {"c[3]", "c[4]", "c[5]"}
    assert {one.reason for one in bad} == {"image does not decode"}
    assert all(len(one_step.keys["regions"]) == 4 for one_step in fed)
    assert sum(one_step.read for one_step in fed) == 6 * 12 + len(bad)
    assert not {"c/3", "c/4", "c/5"} & {key for one_step in fed for key in one_step.keys["regions"]}
    assert plain(fed) == plain(feed_of()[step] for step in range(6))


def test_a_substitute_comes_from_the_same_source() -> None:
    part = Part("pairs", [Numbers("a", 20, frozenset(range(1, 20, 2))), Numbers("b", 20)], 10, key_only)
    rows = [key for step in range(4) for key in Feed([part], Batch, seed=1)[step].keys["pairs"]]
    assert sum(key.startswith("b/") for key in rows) == 20
    assert {key for key in rows if key.startswith("a/")} <= {f"a/{index}" for index in range(0, 20, 2)}


def test_a_source_without_good_records_ends_the_run() -> None:
    part = Part("pairs", [Numbers("a", 5, frozenset(range(5)))], 1, key_only)
    with pytest.raises(
        RuntimeError,
        match=rf"step 7.*{ATTEMPTS} records of source 'a' in a row cannot be used: 20 x .* \(first: a\[",
    ):
        Feed([part], Batch, seed=0)[7]


@dataclass
class Sample:
    bad: tuple[BadRecord, ...]
    read: int


def drops_concepts(record: Record, rng: np.random.Generator) -> Sample:
    if record.extra["index"] == 0:
        raise BadRecord("no text left after cleaning")
    return Sample((BadRecord("box outside the image"),), 5)


def test_dropped_concepts_are_counted_without_losing_the_record() -> None:
    fed = Feed([Part("regions", [Numbers("a", 6)], 6, drops_concepts)], Batch, seed=0)[0]
    lost = [one for one in fed.bad if one.reason == "no text left after cleaning"]
    dropped = [one for one in fed.bad if one.reason == "box outside the image"]
    assert {one.key for one in lost} == {"a/0"}, "the view does not know the key, the feed adds it"
    assert [one.key for one in dropped] == fed.keys["regions"]
    assert fed.read == len(lost) + 6 * 5


def fails_on_three(record: Record, rng: np.random.Generator) -> str:
    if record.extra["index"] == 3:
        raise KeyError("caption")
    return record.key


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_name_step_and_record(workers: int) -> None:
    feed = Feed([Part("pairs", [Numbers("a", 4)], 4, fails_on_three)], Batch, seed=0)
    with pytest.raises(
        RuntimeError, match=r"step 2, part 'pairs', source 'a', record 'a/3': KeyError: 'caption'"
    ):
        list(load(feed, 2, 4, workers))


def not_to_be_had(record: Record, rng: np.random.Generator) -> str:
    raise {
        "a/0": MissingPackageError("this needs the Python package x"),
        "a/1": PermissionError(13, "Permission denied", "shard.tar"),
        "a/2": MemoryError("9 TiB"),
    }[record.key]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("index", "kind", "told"),
    [
        (0, MissingPackageError, "this needs the Python package x"),
        (1, PermissionError, "[Errno 13] Permission denied: 'shard.tar'"),
        (2, MemoryError, "9 TiB"),
    ],
)
def test_errors_that_say_what_is_wrong_stay_as_they_are(
    index: int, kind: type[Exception], told: str, workers: int
) -> None:
    """The same error from a worker as without one; place and the worker's traceback are notes."""
    bad = frozenset(range(3)) - {index}
    feed = Feed([Part("pairs", [Numbers("a", 3, bad)], 1, not_to_be_had)], Batch, seed=0)
    with pytest.raises(kind) as caught:
        list(load(feed, 0, 2, workers))
    assert str(caught.value) == told
    notes = "\n".join(caught.value.__notes__)
    assert f"step 0, part 'pairs', source 'a', record 'a/{index}'" in notes
    assert ("In a data worker:\nTraceback" in notes) == (workers > 0)
    if kind is PermissionError:
        assert caught.value.filename == "shard.tar"  # type: ignore[attr-defined]


def refuses(samples: dict[str, list[Any]]) -> Batch:
    raise TypeError("cannot stack")


def test_errors_of_collate_name_step_and_keys() -> None:
    feed = Feed([Part("pairs", [Numbers("a", 4)], 1, key_only)], refuses, seed=0)
    with pytest.raises(RuntimeError, match=r"step 6: collate failed on .*a/\d.*TypeError: cannot stack"):
        feed[6]


def threads(record: Record, rng: np.random.Generator) -> int:
    return torch.get_num_threads()


def test_workers_have_one_thread_and_end_with_the_stream() -> None:
    feed = Feed([Part("pairs", [Numbers("a", 4)], 1, threads)], Batch, seed=0)
    before = set(multiprocessing.active_children())
    stream = load(feed, 0, 100, workers=2)
    assert next(stream).batches[0].samples["pairs"] == [1]
    assert len(set(multiprocessing.active_children()) - before) == 2
    stream.close()
    assert not set(multiprocessing.active_children()) - before


def test_pinning_reaches_the_batches() -> None:
    assert all(batch.pinned for batch in feed_of(accumulate=2)[0].pin_memory().batches)


def test_pinning_takes_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in plain containers are pinned; what has no tensors, or an unknown form, stays as it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor + 1)
    unknown = object()
    batches = [{"x": torch.zeros(1), "names": ["a"]}, [torch.ones(1)], "text", unknown, Batch({})]
    found = Fed(0, batches, {}, 0, []).pin_memory().batches
    assert found[0] == {"x": torch.ones(1), "names": ["a"]} and found[1] == [2 * torch.ones(1)]
    assert found[2:4] == ["text", unknown] and found[4].pinned


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "at least one part"),
        ([Part("x", [Numbers("a", 4)], 4, key_only)] * 2, {}, "each name once"),
        (
            [Part("x", [Numbers("a", 4)], 6, key_only)],
            {"world": 2, "accumulate": 2},
            "6 cannot be split evenly",
        ),
        ([Part("x", [Numbers("a", 0)], 6, key_only)], {}, "at least one sample"),
    ],
)
def test_bad_arguments(parts: list[Part], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Feed(parts, Batch, 0, **options)


def fed_with(read: int, reasons: list[str]) -> Fed:
    return Fed(0, [], {}, read, [BadRecord(reason, f"key{i}") for i, reason in enumerate(reasons)])


def test_ledger_stops_a_run_with_too_many_bad_records(tmp_path: Path) -> None:
    ledger = BadRecords(tmp_path / "bad_records.jsonl", max_share=0.02)
    ledger.add(fed_with(199, ["no text"] * 4))
    ledger.check()  # 2 %, and too early to say
    ledger.add(fed_with(1, []))
    ledger.check()  # exactly 2 %
    ledger.add(fed_with(1, ["image does not decode"]))
    with pytest.raises(RuntimeError) as error:
        ledger.check()
    for part in (
        "5 of 201",
        "2.00% (--max-bad)",
        "4 x no text (first: key0, key1, key2)",
        "1 x image",
        "bad_records.jsonl",
    ):
        assert part in str(error.value)


def test_the_three_commonest_reasons_are_named() -> None:
    ledger = BadRecords(max_share=0.01)
    reasons = ["a"] * 2 + ["b"] * 4 + ["c"] + ["d"] * 3 + ["e"]
    ledger.add(fed_with(300, reasons))
    with pytest.raises(TooManyBadRecordsError) as error:
        ledger.check()
    assert str(error.value) == (
        "11 of 300 records read are bad, more than 1.00% (--max-bad): 4 x b (first: key2, key3, key4); "
        "3 x d (first: key7, key8, key9); 2 x a (first: key0, key1); and 2 other reasons"
    )


def test_ledger_logs_the_first_of_each_reason(tmp_path: Path) -> None:
    log = tmp_path / "bad_records.jsonl"
    ledger = BadRecords(log)
    reasons = ["a"] * (LOGGED_PER_REASON + 20) + ["b"] * 3
    random.Random(0).shuffle(reasons)
    ledger.add(fed_with(1000, reasons[:60]))
    resumed = BadRecords(log)
    resumed.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    resumed.add(fed_with(1000, reasons[60:]))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["reason"] for line in lines].count("a") == LOGGED_PER_REASON
    assert [line["reason"] for line in lines].count("b") == 3
    assert lines[0] == {"reason": reasons[0], "key": "key0", "detail": ""}
    assert resumed.state_dict()["counts"] == {"a": LOGGED_PER_REASON + 20, "b": 3}
    assert resumed.state_dict()["read"] == 2000
    assert all(len(keys) == 3 for keys in resumed.state_dict()["first_keys"].values())
