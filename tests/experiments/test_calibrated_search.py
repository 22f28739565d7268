"""How a search ranks and judges images is fitted on collections of which is known what texts describe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.search.collection import write_collection
from tests.tiny import photo, phrase, tiny_loaded
from xvlm.common.errors import InputError
from xvlm.data.sources.json import JsonSource
from xvlm.data.text.absent import named_kinds, names_another_thing
from xvlm.evaluation.calibration import fit_logistic
from xvlm.experiments.calibrated_search import (
    JudgedText,
    JudgedTexts,
    SearchTerms,
    balanced_threshold,
    calibrate_search,
    judged_captions,
    judged_scenes,
    search_terms,
)
from xvlm.inference.model import InferenceModel
from xvlm.models.calibration import SearchScore
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.scenes import Scenes, is_true
from xvlm.search.index import Index


def test_weights_of_several_scores_are_recovered() -> None:
    rng = np.random.default_rng(0)
    score_N3 = torch.tensor(rng.normal([20, -3, 1], [2, 3, 1], (20_000, 3)))
    true_3 = torch.tensor([0.7, 0.4, 1.5], dtype=torch.float64)
    log_odds_N = score_N3 @ true_3 - 16
    is_true_N = torch.tensor(rng.random(20_000)) < log_odds_N.sigmoid()
    weights, offset = fit_logistic(score_N3, is_true_N)
    assert weights == pytest.approx(true_3.tolist(), rel=0.1)
    assert offset == pytest.approx(-16, rel=0.1)


def test_a_score_that_misleads_gets_no_weight() -> None:
    rng = np.random.default_rng(1)
    good = torch.tensor(rng.normal(size=5000))
    is_true_N = torch.tensor(rng.random(5000)) < (3 * good).sigmoid()
    misleading = -good + 0.5 * torch.tensor(rng.normal(size=5000))
    weights, _ = fit_logistic(torch.stack((good, misleading), 1), is_true_N)
    assert weights[0] > 2 and 0 <= weights[1] < 0.01


def test_scenes_are_judged_by_their_drawing() -> None:
    judged = judged_scenes(64)
    scenes = Scenes("train", len(judged.images), seed=1, image_size=64)
    drawn = [scenes.scene(index) for index in range(len(scenes))]
    described = [one.described for one in judged.texts]
    assert sum(map(bool, described)) == sum(not one for one in described) == 100
    for one in judged.texts[::17]:
        assert one.described == {index for index, scene in enumerate(drawn) if is_true(one.text, scene)}
        assert not one.uncertain


def write_captions(folder: Path, count: int) -> JsonSource:
    rng, lines = np.random.default_rng(0), []
    for number in range(count):
        photo(40, 30, number).save(folder / f"{number}.jpg")
        elems = [{"caption": phrase(rng, 2), "bb": [1, 1, 20, 20]}]
        lines.append({"image": f"{number}.jpg", "caption": [phrase(rng, 4), phrase(rng, 4)], "elems": elems})
    lines.append({"image": "gone.jpg", "caption": "a dog"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return JsonSource(folder / "captions.jsonl")


def test_captions_describe_their_own_image(tmp_path: Path) -> None:
    source = write_captions(tmp_path, 30)
    judged = judged_captions(source)
    assert len(judged.images) == 15
    assert {image for one in judged.texts for image in one.described} == set(range(15))
    assert sum(not one.described for one in judged.texts) >= 15, "those of images that are left out"
    assert all(not one.described & one.uncertain for one in judged.texts)
    assert any(one.uncertain for one in judged.texts) and any(len(one.uncertain) < 14 for one in judged.texts)
    with pytest.raises(InputError, match=r"captions\.jsonl has 10 images"):
        judged_captions(source, 10)


@pytest.mark.parametrize("heads", [PRETRAINING, (*PRETRAINING, "detection")])
def test_a_calibrated_search_ranks_and_judges_by_what_was_fitted(
    tmp_path: Path, heads: tuple[str, ...]
) -> None:
    save_model(tiny_loaded(heads=heads), tmp_path / "model")
    judged = judged_captions(write_captions(tmp_path, 30))
    bundle = calibrate_search(load_model(tmp_path / "model"), tmp_path / "model", judged)
    fitted = bundle.calibration.search
    assert fitted is not None and load_model(tmp_path / "model").calibration.search == fitted

    index = Index.create(tmp_path / "index", tmp_path / "model", levels=(2, 3))
    index.update([str(write_collection(tmp_path / "photos"))])
    paths = [hit.path for hit in index.search("a red dog", min_probability=0.0)]
    by_default = index.search("a red dog")
    assert all(hit.probability >= fitted.threshold for hit in by_default)
    images = JudgedTexts(paths, [JudgedText("a red dog", frozenset([0]))])
    terms = search_terms(InferenceModel(bundle), images)
    terms_B3 = terms.terms_N3
    assert terms.is_true_N.sum() == 1 and terms.fits_Q.tolist() == [True]
    assert (terms_B3[:, 2] == 0).all() == ("detection" not in heads)
    expected = sorted(fitted.log_odds(terms_B3).tolist(), reverse=True)
    hits = index.search("a red dog", min_probability=0.0)
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=2e-2)
    for hit in hits:
        assert hit.probability == pytest.approx(1 / (1 + np.exp(-hit.score)), abs=1e-4)


def test_a_model_without_known_texts(tmp_path: Path) -> None:
    predictor = InferenceModel(tiny_loaded())
    images = [np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(InputError, match="no text"):
        search_terms(predictor, JudgedTexts(images, [JudgedText("...", frozenset())]))


def test_the_threshold_balances_what_is_kept_and_what_is_left_out() -> None:
    """Of four images that fit one has 0.2; of four texts that fit nothing one has a candidate with 0.6."""
    wanted = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1, 0.6, 0.05, 0.3])
    terms_N3 = torch.zeros(8, 3)
    terms_N3[:, 0] = wanted.logit()
    is_true_N = torch.tensor([True] * 4 + [False] * 4)
    terms = SearchTerms(terms_N3, is_true_N, torch.arange(8), is_true_N)
    threshold, share = balanced_threshold(SearchScore(1.0, 0.0, 0.0, 0.0), terms)
    assert 0.3 < threshold <= 0.7 and share == 0.75


def test_things_that_no_text_of_an_image_names() -> None:
    named = named_kinds(["A man rides a red bike .", "the road"])
    assert not names_another_thing("a woman on a bicycle", named), "another word for what is named"
    assert names_another_thing("a man with a dog", named)
    assert not names_another_thing("a man under the sky", named), "hardly ever named"


def test_log_odds_are_the_weighted_sum() -> None:
    terms_B3 = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert SearchScore(1.0, 0.5, 2.0, -4.0).log_odds(terms_B3).tolist() == [4.0, -4.0]
