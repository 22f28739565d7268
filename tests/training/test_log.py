"""The log of a run is JSON, even if numbers are not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xvlm.training.log import RunLog


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, 2, "test")
    log.step(1, {"loss": float("nan"), "lr": 0.5})
    log.event(1, "dev", {"miou": float("inf")})
    log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert rows == [{"step": 1, "loss": None, "lr": 0.5}, {"step": 1, "event": "dev", "miou": None}]
