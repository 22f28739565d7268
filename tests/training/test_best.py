"""The model with the best metric is saved, whatever the later ones measure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_loaded, tiny_run
from xvlm.common import atomic
from xvlm.common.errors import InputError
from xvlm.models.checkpoints.folder import ModelBundle, load_model
from xvlm.training.train import FEW_RECORDS, evaluation_in_loop, train


def test_the_best_model_is_saved(tmp_path: Path) -> None:
    loaded = tiny_loaded("cnn")
    scores = iter([0.2, 0.5, 0.5, 0.4])

    def evaluate(now: ModelBundle) -> dict[str, float]:
        return {"score": next(scores)}

    for step in range(1, 5):
        # A new wrapper each time, as in a resumed run: the best value so far is read from the folder.
        measure = evaluation_in_loop(evaluate, loaded, tmp_path, "score")
        assert measure is not None
        with torch.no_grad():
            loaded.model.contrastive.temperature.fill_(step / 100)
        measure(loaded.model, step)
    assert load_model(tmp_path / "best").model.contrastive.temperature.item() == pytest.approx(0.02)
    assert json.loads((tmp_path / "best" / "measured.json").read_text()) == {"step": 2, "score": 0.5}


def test_a_metric_that_is_not_measured(tmp_path: Path) -> None:
    measure = evaluation_in_loop(
        lambda now: {"r_mean": 0.5, "t2i_r1": 0.4}, tiny_loaded("cnn"), tmp_path, "r1"
    )
    assert measure is not None
    with pytest.raises(ValueError, match="best_metric is 'r1'; measured are r_mean, t2i_r1"):
        measure(tiny_loaded("cnn").model, 1)


def test_no_best_model_is_saved_by_default(tmp_path: Path) -> None:
    measure = evaluation_in_loop(lambda now: {"score": 1.0}, tiny_loaded("cnn"), tmp_path, "")
    assert measure is not None and measure(tiny_loaded("cnn").model, 1) == {"score": 1.0}
    assert not (tmp_path / "best").exists()


def test_the_metric_is_replaced_together_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill between the two would let a worse model replace the best."""
    loaded, score = tiny_loaded("cnn"), 0.5
    measure = evaluation_in_loop(lambda now: {"score": score}, loaded, tmp_path, "score")
    assert measure is not None
    measure(loaded.model, 1)
    inside: list[set[str]] = []
    exchange = atomic._exchange

    def noted(partial: Path, folder: Path) -> bool:
        inside.append({path.name for path in partial.iterdir()})
        assert json.loads((partial / "measured.json").read_text())["score"] == 0.75
        return exchange(partial, folder)

    monkeypatch.setattr(atomic, "_exchange", noted)
    score = 0.75
    measure(loaded.model, 2)
    assert inside == [{"config.json", "model.safetensors", "tokenizer.json", "measured.json"}]
    assert {path.name for path in tmp_path.iterdir()} == {"best"}


class FewOrAll:
    """An evaluation that records its limits."""

    def __init__(self) -> None:
        self.limits: list[int | None] = []

    def __call__(self, loaded: ModelBundle, limit: int | None = None) -> dict[str, float]:
        self.limits.append(limit)
        return {"grounding_acc50": 0.5, "grounding_cases": 3.0}


def test_a_mistyped_name_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    evaluate = FewOrAll()
    run = tiny_run("cnn", steps=3, best_metric="grounding_acc", eval_every=1)
    with pytest.raises(InputError, match="is 'grounding_acc'; measured are grounding_acc50, grounding_cases"):
        train(run, tmp_path / "out", evaluate=evaluate)
    assert evaluate.limits == [FEW_RECORDS] and not (tmp_path / "out" / "log.jsonl").exists()
    with pytest.raises(InputError, match="eval_every is 1, which has no effect without data in validation"):
        train(run, tmp_path / "out")
    with pytest.raises(InputError, match="best_metric is 'grounding_acc', but nothing is measured"):
        train(replace(run, eval_every=0), tmp_path / "out")
    train(replace(run, best_metric="grounding_acc50"), tmp_path / "out", evaluate=evaluate)  # the same folder
    assert json.loads((tmp_path / "out" / "best" / "measured.json").read_text())["step"] == 1
    train(replace(run, best_metric="grounding_cases"), tmp_path / "out", evaluate=evaluate, resume=True)
