"""The weight of matching is found from scores whose weight is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_loaded, write_photos
from xvlm.common.errors import InputError
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.matching_weight import fit_matching_weight
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.models.checkpoints.folder import load_model, save_model, set_matching_weight
from xvlm.predict import Predictor


def drawn(weight: float, scale: float, queries: int = 20_000, k: int = 6) -> CandidateScores:
    """Draw scores, and the true candidate of each query from the softmax of their weighted sum."""
    torch.manual_seed(0)
    contrastive, matching = torch.randn(2, queries, k, dtype=torch.float64) * 2
    share = (scale * (contrastive + weight * matching)).softmax(1)
    true = torch.zeros(queries, k, dtype=torch.bool).scatter_(1, share.multinomial(1), True)
    return CandidateScores(contrastive, matching, true)


@pytest.mark.parametrize(("weight", "scale"), [(0.5, 1.0), (1.0, 0.4), (2.0, 1.5)])
def test_the_weight_of_drawn_scores_is_found(weight: float, scale: float) -> None:
    fitted = fit_matching_weight([drawn(weight, scale)])
    assert fitted.weight == pytest.approx(weight, rel=0.08) and fitted.scale == pytest.approx(scale, rel=0.08)
    assert fitted.nll < fitted.nll_contrastive - 0.02


def test_matching_that_knows_nothing_has_no_weight() -> None:
    fitted = fit_matching_weight([drawn(0.0, 1.0)])
    assert 0 <= fitted.weight < 0.03
    assert fitted.nll == pytest.approx(fitted.nll_contrastive, abs=1e-3)


def test_queries_without_a_true_candidate_do_not_count() -> None:
    scores = drawn(0.5, 1.0, queries=500)
    missed = CandidateScores(
        scores.contrastive_Qk, 50 * scores.matching_Qk, torch.zeros(500, 6, dtype=torch.bool)
    )
    both = CandidateScores(
        *(torch.cat(pair) for pair in zip(vars(scores).values(), vars(missed).values(), strict=True))
    )
    assert fit_matching_weight([both]) == fit_matching_weight([scores])
    with pytest.raises(InputError, match="no query has both"):
        fit_matching_weight([missed])


def test_the_weight_is_saved_with_the_model_and_used(tmp_path: Path) -> None:
    photos = JsonSource(write_photos(tmp_path, 6))
    bundle = tiny_loaded()
    save_model(replace(bundle, matching_weight=0.25), tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    assert load_model(tmp_path / "model").matching_weight == predictor.matching_weight == 0.25
    own, result = evaluate_retrieval(predictor, photos)
    given, _ = evaluate_retrieval(Predictor(bundle), photos, matching_weight=0.25)
    assert own == given
    scores = result.scores[0]
    expected = scores.contrastive_Qk + 0.25 * scores.matching_Qk
    torch.testing.assert_close(
        result.i2t.score_Qk[:, : expected.shape[1]], expected.sort(1, descending=True)[0]
    )


@pytest.mark.parametrize("weight", [-1, "much", None, float("inf")])
def test_a_damaged_weight_is_an_error(weight: Any, tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "matching_weight": weight}))
    with pytest.raises(InputError, match=r"matching_weight|not JSON"):
        load_model(folder)


def test_the_weight_of_a_folder_may_be_changed(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "run" / "model", {"averaged": {"a": 1.0}})
    before = json.loads((folder / "config.json").read_text())
    set_matching_weight(tmp_path / "run", 0.5)
    assert json.loads((folder / "config.json").read_text()) == {**before, "matching_weight": 0.5}
    assert load_model(tmp_path / "run").matching_weight == 0.5


def test_older_folders_have_weight_1(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["matching_weight"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder).matching_weight == 1.0
