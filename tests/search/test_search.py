"""Searches: order, boxes, pages, filters, images; and indexes that cannot be opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.search.collection import NAMES, tiny_index, write_collection
from tests.tiny import KINDS, photo, tiny_loaded
from xvlm.common.errors import InputError, MissingFileError
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import MissingHead
from xvlm.predict import Predictor
from xvlm.records import BadRecord
from xvlm.search.filters import PhotoFilter
from xvlm.search.index import Index
from xvlm.search.ranking import Hit
from xvlm.search.windows import image_vectors, pyramid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_collection(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return tiny_index(folder, photos=folder / "photos")


def test_order_and_probability_are_those_of_the_predictor(folder: Path, index: Index) -> None:
    predictor, text = Predictor.load(folder / "model"), "a red dog"
    hits = index.search(text)
    assert len(hits) == len(NAMES)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    query_E = predictor.model.contrastive.embed_texts(predictor.encode_texts([text]).cls_ND)[0].detach()
    for hit in hits:
        photo = predictor.image(hit.path)
        assert hit.probability == pytest.approx(photo.match([text])[0], abs=1e-5)
        assert (hit.width, hit.height) == (photo.width, photo.height)
        (box,) = hit.boxes_xyxy
        assert box == pytest.approx(photo.ground(text).box_xyxy, abs=1e-2)
        vectors = image_vectors(predictor, photo.features, pyramid((2,)))[0]
        temperature = float(predictor.model.contrastive.temperature.detach())
        similarity = float((vectors @ query_E).max()) / temperature
        (log_odds,) = np.log(hit.probability / (1 - hit.probability)).reshape(1)
        assert hit.score == pytest.approx(similarity + log_odds, abs=0.05)


def test_pages_follow_each_other(index: Index) -> None:
    for rerank in (True, False):
        every = [hit.path for hit in index.search("a red dog", rerank=rerank)]
        pages = [index.search("a red dog", k=2, offset=start, rerank=rerank) for start in (0, 2, 4, 6)]
        assert [hit.path for page in pages for hit in page] == every
        assert len(every) == len(NAMES)


def test_pages_follow_each_other_beyond_the_candidates(index: Index) -> None:
    """Those that were judged come first, then the others in the order of their vectors, none twice."""
    every = index.search("a red dog", candidates=2)
    assert [hit.probability is not None for hit in every] == [True, True, False, False, False]
    pages = [index.search("a red dog", k=2, offset=start, candidates=2) for start in (0, 2, 4, 6)]
    assert [hit.path for page in pages for hit in page] == [hit.path for hit in every]
    assert {hit.path for hit in every} == {hit.path for hit in index.search("a red dog")}
    assert len(index.search("a red dog", candidates=2, min_probability=1e-9)) == 2


def test_the_cut_off(index: Index) -> None:
    every = index.search("a red dog")
    threshold = sorted(hit.probability for hit in every)[2]  # type: ignore[type-var]
    kept = index.search("a red dog", min_probability=threshold)
    assert [hit.path for hit in kept] == [hit.path for hit in every if hit.probability >= threshold]
    assert index.search("a red dog", min_probability=1.0) == []


def test_filters_leave_no_other_photo(folder: Path, index: Index) -> None:
    deep = PhotoFilter(folder=str(folder / "photos" / "deep"))
    for rerank in (True, False):
        found = index.search("a red dog", allowed=deep, rerank=rerank)
        assert sorted(Path(hit.path).name for hit in found) == ["c.webp", "d.jpg"]


def cosine(index: Index, hit: Hit) -> float:
    return hit.score * float(index.predictor.model.contrastive.temperature.detach())


def test_a_photo_is_most_like_itself(folder: Path, index: Index) -> None:
    for name in NAMES:
        hits = index.search(like=str(folder / "photos" / name))
        (own,) = [hit for hit in hits if hit.path == str(folder / "photos" / name)]
        assert cosine(index, own) == pytest.approx(1, abs=2e-3)
        assert own.score == pytest.approx(hits[0].score, abs=0.05), "a model of random weights has near ties"
        assert own.probability is None and own.boxes_xyxy == []


def test_a_region_is_searched_by_its_own_vector(folder: Path, index: Index) -> None:
    """The region is a window of the pyramid, so the photo has exactly that vector."""
    hits = index.search(like=str(folder / "photos" / "a.jpg"), box_xyxy=(0, 0, 40, 50 * 2 / 3))
    (own,) = [hit for hit in hits if hit.path == str(folder / "photos" / "a.jpg")]
    assert cosine(index, own) == pytest.approx(1, abs=2e-3)
    with pytest.raises(InputError, match="60 x 50"):
        index.search(like=str(folder / "photos" / "a.jpg"), box_xyxy=(0, 0, 61, 10))


def test_text_and_image_together(folder: Path, index: Index) -> None:
    like = str(folder / "photos" / "a.jpg")
    both = {hit.path: hit.score for hit in index.search("a red dog", like=like, rerank=False)}
    text = {hit.path: hit.score for hit in index.search("a red dog", rerank=False)}
    assert both.keys() == text.keys() and both != text


def test_a_photo_that_is_gone_is_left_out(tmp_path: Path) -> None:
    photos = write_collection(tmp_path / "photos")
    index = tiny_index(tmp_path, photos=photos)
    (photos / "a.jpg").unlink()
    assert len(index.search("a red dog")) == len(NAMES) - 1
    assert len(index.search("a red dog", rerank=False)) == len(NAMES), "vectors alone read no photo"


def test_the_cache_stays_within_its_budget(index: Index) -> None:
    first = index.search("a red dog")
    features = index.cache.features
    one = features.bytes // len(features)
    features.budget = 2 * one
    again = index.search("a red dog")
    assert [hit.path for hit in again] == [hit.path for hit in first]
    assert [hit.score for hit in again] == pytest.approx([hit.score for hit in first], abs=1e-4)
    assert len(features) == 2 and features.bytes == 2 * one
    features.budget = 10**9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "text, an image or both"),
        ({"text": "a dog", "k": 0}, "k is 0"),
        ({"text": "a dog", "offset": -1}, "offset is -1"),
        ({"text": "a dog", "min_probability": 1.5}, "min_probability is 1.5"),
        ({"text": "a dog", "min_probability": 0.9, "rerank": False}, "no probabilities without"),
        ({"like": photo(40, 30, 1), "min_probability": 0.9}, "no probabilities without"),
        ({"text": "a dog", "box_xyxy": (0, 0, 5, 5)}, "which is missing"),
        ({"text": ["a dog"]}, "a text must be a string"),
    ],
)
def test_wrong_searches(index: Index, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search(**options)  # type: ignore[arg-type]


def test_texts_without_a_known_token(index: Index) -> None:
    with pytest.raises(BadRecord):
        index.search("")
    with pytest.raises(BadRecord):
        index.search("....")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder(kind: str, tmp_path: Path) -> None:
    index = tiny_index(tmp_path, kind, write_collection(tmp_path / "photos"))
    hits = index.search("a red dog", k=2)
    assert len(hits) == 2
    assert cosine(index, index.search(like=hits[1].path, k=1)[0]) == pytest.approx(1, abs=2e-3)


def test_another_model_is_refused(folder: Path, index: Index, tmp_path: Path) -> None:
    save_model(tiny_loaded(seed=1), tmp_path / "other")
    for open_index in (Index.open, Index.create):
        with pytest.raises(InputError, match=r"made by another model.*model"):
            open_index(index.folder, tmp_path / "other")
    save_model(tiny_loaded(), tmp_path / "moved")
    assert len(Index.open(index.folder, tmp_path / "moved")) == len(NAMES), "the same weights elsewhere"


def test_levels_of_an_index_stay(folder: Path, index: Index) -> None:
    assert Index.create(index.folder, folder / "model").manifest.levels == index.manifest.levels
    assert Index.create(index.folder, folder / "model", levels=list(index.manifest.levels))
    with pytest.raises(InputError, match=r"levels is \(\); the index in .* has \("):
        Index.create(index.folder, folder / "model", levels=[])


def test_one_root_needs_no_list(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A string is one root, not one for each of its letters."""
    index = Index.create(tmp_path / "index", folder / "model", levels=[])
    write_collection(tmp_path / "a")
    write_collection(tmp_path / "ab")
    monkeypatch.chdir(tmp_path)
    for root in ("ab", Path("ab"), [Path("ab")], ("ab",)):
        index.update(root)
        assert len(index) == len(NAMES), root


def test_indexes_that_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no index.*xvlm index"):
        Index.open(tmp_path)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        Index.create(tmp_path, folder / "model")
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="format 99"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 1, "model": 3}')
    with pytest.raises(InputError, match=r"index\.json"):
        Index.open(tmp_path)


def test_a_model_without_vectors(tmp_path: Path) -> None:
    save_model(tiny_loaded(heads=("matching",)), tmp_path / "model")
    with pytest.raises(MissingHead, match="contrastive"):
        Index.create(tmp_path / "index", tmp_path / "model")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("heads", [("contrastive",), ("contrastive", "matching")])
def test_models_with_fewer_heads(tmp_path: Path, heads: tuple[str, ...]) -> None:
    """Without a matching head hits are those of vectors, without a box head they have no box."""
    save_model(tiny_loaded(heads=heads), tmp_path / "model")
    index = Index.create(tmp_path / "index", tmp_path / "model", levels=())
    index.update([str(write_collection(tmp_path / "photos"))])
    for hit in index.search("a red dog"):
        assert (hit.probability is None) == ("matching" not in heads)
        assert hit.boxes_xyxy == []


def test_windows() -> None:
    box_C4 = pyramid((2, 3))
    assert len(box_C4) == 13
    assert box_C4[0].tolist() == pytest.approx([0, 0, 2 / 3, 2 / 3])
    assert box_C4[4].tolist() == pytest.approx([0, 0, 0.5, 0.5])
    assert box_C4[-1].tolist() == pytest.approx([0.5, 0.5, 1, 1])
    assert torch.unique(box_C4, dim=0).shape == box_C4.shape
    assert pyramid(()).shape == (0, 4)
