"""Bad records are counted and logged by reason, and too many of them end a run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from xvlm.common.errors import TooManyBadRecordsError
from xvlm.data.loading.bad_records import LOGGED_PER_REASON, BadRecordCounter
from xvlm.records import BadRecord


def bad(reasons: list[str]) -> list[BadRecord]:
    return [BadRecord(reason, f"key{i}") for i, reason in enumerate(reasons)]


def test_a_run_with_too_many_bad_records_ends(tmp_path: Path) -> None:
    counter = BadRecordCounter(tmp_path / "bad_records.jsonl", max_fraction=0.02)
    counter.add(199, bad(["no text"] * 4), [])
    counter.check()  # more than 2 %, but of too few records
    counter.add(1, [], [])
    counter.check()  # exactly 2 %
    counter.add(1, bad(["image does not decode"]), [])
    with pytest.raises(RuntimeError) as error:
        counter.check()
    for part in ("5 of 201", "2.00% (--max-bad)", "4 x no text (first: key0, key1, key2)", "1 x image"):
        assert part in str(error.value)
    assert "bad_records.jsonl" in str(error.value)


def test_the_three_most_common_reasons_are_named() -> None:
    counter = BadRecordCounter(max_fraction=0.01)
    counter.add(300, bad(["a"] * 2 + ["b"] * 4 + ["c"] + ["d"] * 3 + ["e"]), [])
    with pytest.raises(TooManyBadRecordsError) as error:
        counter.check()
    assert str(error.value) == (
        "11 of 300 records read are bad, more than 1.00% (--max-bad): 4 x b (first: key2, key3, key4); "
        "3 x d (first: key7, key8, key9); 2 x a (first: key0, key1); and 2 other reasons"
    )


def test_the_first_of_each_reason_are_logged(tmp_path: Path) -> None:
    log = tmp_path / "bad_records.jsonl"
    counter = BadRecordCounter(log)
    reasons = ["a"] * (LOGGED_PER_REASON + 20) + ["b"] * 3
    random.Random(0).shuffle(reasons)
    counter.add(1000, bad(reasons[:60]), [])
    resumed = BadRecordCounter(log)
    resumed.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    resumed.add(1000, bad(reasons[60:]), [])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["reason"] for line in lines].count("a") == LOGGED_PER_REASON
    assert [line["reason"] for line in lines].count("b") == 3
    assert lines[0] == {"reason": reasons[0], "key": "key0", "detail": ""}
    assert resumed.state_dict()["counts"] == {"a": LOGGED_PER_REASON + 20, "b": 3}
    assert resumed.state_dict()["read"] == 2000
    assert all(len(keys) == 3 for keys in resumed.state_dict()["first_keys"].values())
