"""The model that is measured best is kept, whatever comes after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_loaded, tiny_run
from xvlm import whole
from xvlm.errors import InputError
from xvlm.model.folder import Loaded, load_model
from xvlm.train.start import FEW, measuring, train


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


def test_the_number_is_replaced_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between saving the one and the other would let a worse model replace the best."""
    loaded, score = tiny_loaded("cnn"), 0.5
    measure = measuring(lambda now: {"score": score}, loaded, tmp_path, "score")
    assert measure is not None
    measure(loaded.model, 1)
    inside: list[set[str]] = []
    exchange = whole._exchange

    def noted(partial: Path, folder: Path) -> bool:
        inside.append({path.name for path in partial.iterdir()})
        assert json.loads((partial / "measured.json").read_text())["score"] == 0.75
        return exchange(partial, folder)

    monkeypatch.setattr(whole, "_exchange", noted)
    score = 0.75
    measure(loaded.model, 2)
    assert inside == [{"config.json", "model.safetensors", "tokenizer.json", "measured.json"}]
    assert {path.name for path in tmp_path.iterdir()} == {"best"}


class FewOrAll:
    """An evaluation that notes how many records it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def __call__(self, loaded: Loaded, limit: int | None = None) -> dict[str, float]:
        self.asked.append(limit)
        return {"grounding_acc50": 0.5, "grounding_cases": 3.0}


def test_a_mistyped_name_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    evaluate = FewOrAll()
    run = tiny_run("cnn", steps=3, keep_best="grounding_acc", eval_every=1)
    with pytest.raises(InputError, match="is 'grounding_acc'; measured are grounding_acc50, grounding_cases"):
        train(run, tmp_path / "out", evaluate=evaluate)
    assert evaluate.asked == [FEW] and not (tmp_path / "out" / "log.jsonl").exists()
    with pytest.raises(InputError, match="but nothing is measured"):
        train(run, tmp_path / "out")
    train(replace(run, keep_best="grounding_acc50"), tmp_path / "out", evaluate=evaluate)  # the same --out
    assert json.loads((tmp_path / "out" / "best" / "measured.json").read_text())["step"] == 1
    train(replace(run, keep_best="grounding_cases"), tmp_path / "out", evaluate=evaluate, resume=True)
