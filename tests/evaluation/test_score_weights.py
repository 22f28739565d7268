"""The weights of scores are found from scores whose weights are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_loaded, write_photos
from xvlm.common.errors import InputError
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.score_weights import fit_score_weights
from xvlm.models.checkpoints.folder import load_model, save_model, set_score_weights
from xvlm.predict import Predictor


def drawn(
    matching: float, phrases: float, scale: float, queries: int = 20_000, k: int = 6
) -> CandidateScores:
    """Draw scores, and the true candidate of each query from the softmax of their weighted sum."""
    torch.manual_seed(0)
    terms = torch.randn(3, queries, k, dtype=torch.float64) * 2
    weights = torch.tensor([1.0, matching, phrases], dtype=torch.float64)
    share = (scale * torch.einsum("c,cqk->qk", weights, terms)).softmax(1)
    true = torch.zeros(queries, k, dtype=torch.bool).scatter_(1, share.multinomial(1), True)
    return CandidateScores(*terms, true)


@pytest.mark.parametrize(
    ("matching", "phrases", "scale"), [(0.5, 0.3, 1.0), (1.0, 1.0, 0.4), (2.0, 0.5, 1.5)]
)
def test_the_weights_of_drawn_scores_are_found(matching: float, phrases: float, scale: float) -> None:
    fitted = fit_score_weights([drawn(matching, phrases, scale)])
    assert fitted.matching == pytest.approx(matching, rel=0.08)
    assert fitted.phrases == pytest.approx(phrases, rel=0.08)
    assert fitted.scale == pytest.approx(scale, rel=0.08)
    assert fitted.nll < fitted.nll_contrastive - 0.02


def test_scores_that_know_nothing_have_no_weight() -> None:
    fitted = fit_score_weights([drawn(0.0, 0.0, 1.0)])
    assert 0 <= fitted.matching < 0.03 and 0 <= fitted.phrases < 0.03
    assert fitted.nll == pytest.approx(fitted.nll_contrastive, abs=1e-3)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
def test_scores_that_hardly_differ_have_finite_weights(spread: float) -> None:
    drawn_once = drawn(0.5, 0.3, 1.0, queries=8)
    terms = (drawn_once.contrastive_Qk, drawn_once.matching_Qk, drawn_once.phrases_Qk)
    flat = CandidateScores(*(spread * term for term in terms), drawn_once.true_Qk)
    for used in (("matching",), ("matching", "phrases")):
        fitted = fit_score_weights([flat], used)
        assert all(map(math.isfinite, vars(fitted).values()))
        assert fitted.nll <= fitted.nll_contrastive + 1e-3


def test_queries_without_a_true_candidate_do_not_count() -> None:
    scores = drawn(0.5, 0.3, 1.0, queries=500)
    missed = replace(
        scores, matching_Qk=50 * scores.matching_Qk, true_Qk=torch.zeros(500, 6, dtype=torch.bool)
    )
    both = CandidateScores(
        *(torch.cat(pair) for pair in zip(vars(scores).values(), vars(missed).values(), strict=True))
    )
    assert fit_score_weights([both]) == fit_score_weights([scores])
    with pytest.raises(InputError, match="no query has both"):
        fit_score_weights([missed])


def test_the_weights_are_saved_with_the_model_and_used(tmp_path: Path) -> None:
    photos = JsonSource(write_photos(tmp_path, 6))
    bundle = tiny_loaded()
    save_model(replace(bundle, matching_weight=0.25, phrase_weight=0.5), tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    own, result = evaluate_retrieval(predictor, photos)
    given, _ = evaluate_retrieval(Predictor(bundle), photos, matching_weight=0.25, phrase_weight=0.5)
    assert own == given
    scores = result.scores[0]
    assert scores.phrases_Qk.abs().max() > 0.01
    expected = scores.contrastive_Qk + 0.25 * scores.matching_Qk + 0.5 * scores.phrases_Qk
    torch.testing.assert_close(
        result.i2t.score_Qk[:, : expected.shape[1]], expected.sort(1, descending=True)[0]
    )


@pytest.mark.parametrize("name", ["matching_weight", "phrase_weight"])
@pytest.mark.parametrize("weight", [-1, "much", None, float("inf")])
def test_a_damaged_weight_is_an_error(name: str, weight: Any, tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: weight}))
    with pytest.raises(InputError, match=rf"{name}|not JSON"):
        load_model(folder)


def test_the_weights_of_a_folder_may_be_changed(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "run" / "model", {"averaged": {"a": 1.0}})
    before = json.loads((folder / "config.json").read_text())
    set_score_weights(tmp_path / "run", 0.5, 0.25)
    weights = {"matching_weight": 0.5, "phrase_weight": 0.25}
    assert json.loads((folder / "config.json").read_text()) == {**before, **weights}
    bundle = load_model(tmp_path / "run")
    assert (bundle.matching_weight, bundle.phrase_weight) == (0.5, 0.25)


def test_older_folders_have_the_published_weights(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["matching_weight"], config["phrase_weight"]
    (folder / "config.json").write_text(json.dumps(config))
    bundle = load_model(folder)
    assert (bundle.matching_weight, bundle.phrase_weight) == (1.0, 0.0)
