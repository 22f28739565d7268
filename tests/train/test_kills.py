"""A run that is killed at random moments, its newest checkpoint damaged, ends as one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.kills import demanding_run, kill_and_compare
from xvlm.tasks._dev import measured_zero_shot
from xvlm.train.start import train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    run = demanding_run()
    train(run, out, evaluate=measured_zero_shot(run.dev))
    return out


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments(seed: int, whole: Path, tmp_path: Path) -> None:
    """Many more, and with two ranks: `python -m tests.train.kills 100`."""
    kill_and_compare(tmp_path / "run", whole, ranks=1, kills=2, seed=seed)
