"""Grounding and retrieval: predictions match their inputs, and bad records are skipped and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.kit import source_of
from tests.tiny import tiny_loaded, write_photos
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.predict import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_loaded("cnn"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 7)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_grounding_predictions_match_their_phrases(predictor: Predictor, photos: Path, batch: int) -> None:
    source = JsonSource(photos)
    metrics, predictions = evaluate_grounding(predictor, source, batch_size=batch)
    expected = [
        (record.key, text, concept.box_xyxy)
        for record in (source[i] for i in range(len(source)))
        for concept in record.concepts
        if concept.box_xyxy is not None
        for text in concept.texts
    ]
    assert [(p.key, p.text, p.true_xyxy) for p in predictions] == expected
    assert metrics["grounding_cases"] == len(expected) == 14
    assert metrics["grounding_skipped"] == 0
    for one in predictions:
        box, score = predictor.image(one.image).ground(one.text)  # type: ignore[arg-type]
        assert one.predicted_xyxy == pytest.approx(box, abs=1e-3)
        assert one.score == pytest.approx(score, abs=1e-5)
    ious = [one.iou for one in predictions]
    assert metrics["grounding_miou"] == pytest.approx(sum(ious) / len(ious))
    assert metrics["grounding_acc50"] == pytest.approx(sum(iou >= 0.5 for iou in ious) / len(ious))
    assert json.dumps([one.to_json() for one in predictions])


def test_grounding_phrases_of_one_image_share_its_encoding(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos.parent
    items: list[dict[str, Any]] = [
        {"image": str(folder / f"{i}.jpg"), "text": text, "bbox": [1, 2, 20, 10]}
        for i in (0, 1)
        for text in ("a dog", "red car", "the tree")
    ]
    decoded = []
    pixels = predictor.pixels
    monkeypatch.setattr(predictor, "pixels", lambda file: decoded.append(file.key) or pixels(file))
    metrics, predictions = evaluate_grounding(predictor, source_of(tmp_path, items))
    assert len(decoded) == 2 and metrics["grounding_cases"] == 6
    assert [p.text for p in predictions] == [str(item["text"]) for item in items]


def test_bad_records_are_counted_and_skipped(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """A missing file, a truncated file, a box outside the image and an empty phrase are skipped."""
    good = str(photos.parent / "0.jpg")
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes((photos.parent / "1.jpg").read_bytes()[:700])
    box = [1, 2, 20, 10]
    source = source_of(
        tmp_path,
        [
            {"image": good, "text": "a dog", "bbox": box},
            {"image": "gone.jpg", "text": "a dog", "bbox": box},
            {"image": str(truncated), "text": "a dog", "bbox": box},
            {"image": good, "text": "a dog", "bbox": [500, 500, 20, 10]},
            {"image": good, "text": ["?!", "red car"], "bbox": box},
            {"image": good, "text": "the tree", "bbox": box},
        ],
    )
    metrics, predictions = evaluate_grounding(predictor, source)
    assert metrics["grounding_skipped"] == 4
    assert [p.text for p in predictions] == ["a dog", "red car", "the tree"]

    captions = source_of(
        tmp_path,
        [
            {"image": good, "caption": ["a dog", "!"]},
            {"image": str(truncated), "caption": "a dog"},
            {"image": good, "text": "red car", "bbox": box},
            {"image": str(photos.parent / "2.jpg"), "caption": "the tree"},
        ],
    )
    metrics, result = evaluate_retrieval(predictor, captions, rerank_top_k=0)
    assert metrics["retrieval_skipped"] == 3
    assert result.texts == ["a dog", "the tree"] and result.image_N.tolist() == [0, 1]


def test_nothing_to_measure_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    source = source_of(tmp_path, [{"image": "gone.jpg", "caption": "a dog"}])
    with pytest.raises(ValueError, match="has no phrase with a box; first problem"):
        evaluate_grounding(predictor, source)
    with pytest.raises(ValueError, match=r"no image with a caption; first problem: .*image file missing"):
        evaluate_retrieval(predictor, source)


def test_limit(predictor: Predictor, photos: Path) -> None:
    _, predictions = evaluate_grounding(predictor, JsonSource(photos), limit=2)
    assert len(predictions) == 4
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), limit=3, rerank_top_k=0)
    assert metrics["retrieval_images"] == len(result.images) == 3


def test_scenes_can_be_evaluated(predictor: Predictor) -> None:
    """The images of scenes are arrays, not files."""
    metrics, predictions = evaluate_grounding(predictor, open_source("scene-cases:test:3?image_size=64"))
    assert metrics["grounding_cases"] == len(predictions) > 3
    assert predictions[0].to_json()["image"] is None
    metrics, _ = evaluate_retrieval(predictor, open_source("scenes:test:4?image_size=64"), texts_per_image=1)
    assert metrics["retrieval_texts"] == 4
