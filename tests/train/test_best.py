"""The model that is measured best is kept, whatever comes after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_loaded
from xvlm.model.folder import Loaded, load_model
from xvlm.train.start import measuring


def test_the_best_is_kept(tmp_path: Path) -> None:
    loaded = tiny_loaded("cnn")
    scores = iter([0.2, 0.5, 0.5, 0.4])

    def evaluate(now: Loaded) -> dict[str, float]:
        return {"score": next(scores)}

    for step in range(1, 5):
        # as a run that was stopped and goes on: what was best is read from the folder
        measure = measuring(evaluate, loaded, tmp_path, "score")
        assert measure is not None
        with torch.no_grad():
            loaded.model.contrastive.temperature.fill_(step / 100)
        measure(loaded.model, step)
    assert load_model(tmp_path / "best").model.contrastive.temperature.item() == pytest.approx(0.02)
    assert json.loads((tmp_path / "best" / "measured.json").read_text()) == {"step": 2, "score": 0.5}


def test_a_number_that_is_not_measured(tmp_path: Path) -> None:
    measure = measuring(lambda now: {"r_mean": 0.5, "t2i_r1": 0.4}, tiny_loaded("cnn"), tmp_path, "r1")
    assert measure is not None
    with pytest.raises(ValueError, match="keep_best is 'r1'; measured are r_mean, t2i_r1"):
        measure(tiny_loaded("cnn").model, 1)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    measure = measuring(lambda now: {"score": 1.0}, tiny_loaded("cnn"), tmp_path, "")
    assert measure is not None and measure(tiny_loaded("cnn").model, 1) == {"score": 1.0}
    assert not (tmp_path / "best").exists()
