"""The benchmark of waiting averages the log of a run by time, and sees that a run waits."""

from __future__ import annotations

import pytest

from tests.tiny import tiny_run
from xvlm.bench import waiting


def test_shares_are_weighted_by_the_time_of_their_steps() -> None:
    rows = [{"images_per_s": 100.0, "data_share": 0.0}, {"images_per_s": 25.0, "data_share": 0.5}]
    timing = waiting.timing(rows, images=10, workers=2)  # 0.1 s and 0.4 s, 0.2 s of which are waiting
    assert timing["data_share"] == pytest.approx(0.4) and timing["images_per_s"] == pytest.approx(40)
    assert timing["step_ms"] == pytest.approx(150) and timing["needed_workers"] is not None
    assert waiting.timing([{"images_per_s": 9.0, "data_share": 0.02}], 10, 2)["needed_workers"] is None


def test_a_run_without_workers_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "pretraining", lambda recipe: tiny_run())
    result = waiting.bench(pairs=8, region_images=8, workers=0, steps=3, images=4)
    assert 0.1 < result["data_share"] < 1 and result["needed_workers"] >= 1
    assert result["workers"] == 0 and result["images_per_s"] > 0
