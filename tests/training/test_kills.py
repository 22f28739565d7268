"""A run that is killed at random moments, and whose newest checkpoint is damaged, resumes bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.kills import demanding_run, kill_and_compare
from xvlm.tasks.common.validation import zero_shot_validation
from xvlm.training.train import train


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    run = demanding_run()
    train(run, out, evaluate=zero_shot_validation(run.validation))
    return out


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments(seed: int, reference: Path, tmp_path: Path) -> None:
    """`python -m tests.training.kills 100` kills more often, and also with two ranks."""
    kill_and_compare(tmp_path / "run", reference, ranks=1, kills=2, seed=seed)
