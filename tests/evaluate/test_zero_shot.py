"""Evaluation: answers stand with their questions, bad records are counted, reranking is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_loaded, write_photos
from xvlm.batch import Concepts
from xvlm.data.sources import JsonSource, open_source
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import Retrieval, evaluate_retrieval
from xvlm.metrics.recall import recall_metrics
from xvlm.predict import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_loaded("cnn"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 7)


def write_list(path: Path, items: list[dict[str, object]]) -> JsonSource:
    path.write_text(json.dumps(items))
    return JsonSource(path)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_grounding_answers_stand_with_their_questions(predictor: Predictor, photos: Path, batch: int) -> None:
    source = JsonSource(photos)
    metrics, predictions = evaluate_grounding(predictor, source, batch=batch)
    expected = [
        (record.key, text, concept.box_xyxy)
        for record in (source[i] for i in range(len(source)))
        for concept in record.concepts
        if concept.box_xyxy is not None
        for text in concept.texts
    ]
    assert [(p.key, p.text, p.true_xyxy) for p in predictions] == expected
    assert metrics["grounding_cases"] == len(expected) == 14
    assert metrics["grounding_bad_records"] == 0
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
    items: list[dict[str, object]] = [
        {"image": str(folder / f"{i}.jpg"), "text": text, "bbox": [1, 2, 20, 10]}
        for i in (0, 1)
        for text in ("a dog", "red car", "the tree")
    ]
    read = []
    pixels = predictor.pixels
    monkeypatch.setattr(predictor, "pixels", lambda opened: read.append(opened.key) or pixels(opened))
    metrics, predictions = evaluate_grounding(predictor, write_list(tmp_path / "g.json", items))
    assert len(read) == 2 and metrics["grounding_cases"] == 6
    assert [p.text for p in predictions] == [str(item["text"]) for item in items]


def test_bad_records_are_counted_and_the_rest_is_measured(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    """A missing file, one cut in half, a box outside, a phrase of nothing, between good ones."""
    good = str(photos.parent / "0.jpg")
    half = tmp_path / "half.jpg"
    half.write_bytes((photos.parent / "1.jpg").read_bytes()[:700])
    box = [1, 2, 20, 10]
    source = write_list(
        tmp_path / "g.json",
        [
            {"image": good, "text": "a dog", "bbox": box},
            {"image": "gone.jpg", "text": "a dog", "bbox": box},
            {"image": str(half), "text": "a dog", "bbox": box},
            {"image": good, "text": "a dog", "bbox": [500, 500, 20, 10]},
            {"image": good, "text": ["?!", "red car"], "bbox": box},
            {"image": good, "text": "the tree", "bbox": box},
        ],
    )
    metrics, predictions = evaluate_grounding(predictor, source)
    assert metrics["grounding_bad_records"] == 4
    assert [p.text for p in predictions] == ["a dog", "red car", "the tree"]

    captions = write_list(
        tmp_path / "r.json",
        [
            {"image": good, "caption": ["a dog", "!"]},
            {"image": str(half), "caption": "a dog"},
            {"image": good, "text": "red car", "bbox": box},
            {"image": str(photos.parent / "2.jpg"), "caption": "the tree"},
        ],
    )
    metrics, found = evaluate_retrieval(predictor, captions, top=0)
    assert metrics["retrieval_bad_records"] == 3
    assert found.texts == ["a dog", "the tree"] and found.image_T.tolist() == [0, 1]


def test_nothing_to_measure_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    source = write_list(tmp_path / "a.json", [{"image": "gone.jpg", "caption": "a dog"}])
    with pytest.raises(ValueError, match="no case"):
        evaluate_grounding(predictor, source)
    with pytest.raises(ValueError, match=r"no image with a caption; first problem: .*image file missing"):
        evaluate_retrieval(predictor, source)


def all_pairs(predictor: Predictor, found: Retrieval) -> tuple[Tensor, Tensor]:
    """(I, T) contrastive scores and matching log-odds, pair by pair."""
    contrastive, matching = [], []
    for image in found.images:
        seen = predictor.image(image)  # type: ignore[arg-type]
        probability = torch.tensor([seen.match([text])[0] for text in found.texts], dtype=torch.float64)
        matching.append(probability.logit())
        texts = predictor.encode_texts(found.texts)
        head = predictor.model.contrastive
        whole = predictor.model.vision.concepts(seen.features, Concepts.none("cpu"))[1]
        cosine = head.embed_concepts(whole) @ head.embed_texts(texts.summary_ND).T
        contrastive.append((cosine / head.temperature).detach()[0].double())
    return torch.stack(contrastive), torch.stack(matching)


@pytest.mark.parametrize("batch", [2, 32])
def test_reranking_everything_is_scoring_every_pair(predictor: Predictor, photos: Path, batch: int) -> None:
    source = JsonSource(photos)
    metrics, found = evaluate_retrieval(predictor, source, top=99, rerank="matching", batch=batch)
    assert metrics["retrieval_images"] == 7 and metrics["retrieval_texts"] == 14
    assert found.image_T.tolist() == [i for i in range(7) for _ in range(2)]
    contrastive, matching = all_pairs(predictor, found)
    torch.testing.assert_close(found.contrastive_IT.double(), contrastive, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.reranked_IT, matching, atol=1e-4, rtol=1e-3)
    assert {
        k: v for k, v in metrics.items() if k in recall_metrics(matching, found.image_T)
    } == recall_metrics(matching, found.image_T)
    _, both = evaluate_retrieval(predictor, source, top=99, rerank="both", batch=batch)
    torch.testing.assert_close(both.reranked_IT, matching + contrastive, atol=1e-4, rtol=1e-3)


def test_reranking_some_leaves_the_others_behind_in_their_order(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), top=2, rerank="matching")
    _, everything = evaluate_retrieval(predictor, JsonSource(photos), top=99, rerank="matching")
    contrastive, reranked = found.contrastive_IT.double(), found.reranked_IT
    wanted = torch.zeros_like(contrastive, dtype=torch.bool)
    for i in range(7):
        wanted[i, contrastive[i].topk(2).indices] = True
    for t in range(14):
        wanted[contrastive[:, t].topk(2).indices, t] = True
    assert 0 < wanted.sum() < wanted.numel()
    torch.testing.assert_close(reranked[wanted], everything.reranked_IT[wanted], atol=1e-4, rtol=1e-4)
    assert reranked[wanted].min() > reranked[~wanted].max()
    for i in range(7):
        rest = ~wanted[i]
        assert reranked[i, rest].argsort().tolist() == contrastive[i, rest].argsort().tolist()


def test_no_reranking_is_the_contrastive_ranking(predictor: Predictor, photos: Path) -> None:
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), top=0)
    assert torch.equal(found.reranked_IT, found.contrastive_IT)
    assert "t2i_r1_contrastive" in metrics and "t2i_r1" not in metrics


def test_texts_per_image_and_limit(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), limit=3, top=0, texts_per_image=1)
    assert found.image_T.tolist() == [0, 1, 2] and len(found.keys) == 3
    assert found.texts == [JsonSource(photos)[i].concepts[0].texts[0] for i in range(3)]
    _, cases = evaluate_grounding(predictor, JsonSource(photos), limit=2)
    assert len(cases) == 4


def test_ranked_lists_hold_the_best_first(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), top=3)
    written = json.loads(json.dumps(found.to_json(first=4)))
    assert [row["text"] for row in written["texts"]] == found.texts
    assert written["images"][2] == {"key": found.keys[2], "image": found.images[2]}
    for i, row in enumerate(written["i2t"]):
        assert len(row) == 4
        assert [t for t, _ in row] == found.reranked_IT[i].argsort(descending=True).tolist()[:4]
    assert len(written["t2i"]) == 14


def test_an_unknown_way_to_rerank_is_named(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ValueError, match="rerank is 'best'; it may be both or matching"):
        evaluate_retrieval(predictor, JsonSource(photos), rerank="best")


def test_drawn_scenes_can_be_measured(predictor: Predictor) -> None:
    """Images that are arrays, not files."""
    metrics, predictions = evaluate_grounding(predictor, open_source("scene-cases:test:3?image_size=64"))
    assert metrics["grounding_cases"] == len(predictions) > 3
    assert predictions[0].to_json()["image"] is None
    metrics, _ = evaluate_retrieval(predictor, open_source("scenes:test:4?image_size=64"), texts_per_image=1)
    assert metrics["retrieval_texts"] == 4
