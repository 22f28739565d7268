"""The log of a run is JSON, whatever the numbers are."""

from __future__ import annotations

import json
from pathlib import Path

from xvlm.train.log import Log


def test_a_loss_that_is_no_number_is_null(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 2, "test")
    log.step(1, {"loss": float("nan"), "lr": 0.5})
    log.event(1, "dev", {"miou": float("inf")})
    log.close()

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refused) for line in lines]
    assert rows == [{"step": 1, "loss": None, "lr": 0.5}, {"step": 1, "event": "dev", "miou": None}]
