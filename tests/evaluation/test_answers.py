"""VQA, NLVR2 and captioning: predictions match their inputs and those of `Predictor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.kit import NAMES, predictor_of, source_of
from xvlm.evaluation.captioning import evaluate_captioning
from xvlm.evaluation.nlvr2 import evaluate_nlvr2
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.metrics.cider import Cider
from xvlm.metrics.vqa import vqa_accuracy
from xvlm.models.generation.config import GenerationConfig

ANSWERS = ["red", "light blue", "two dogs", "no"]


@pytest.mark.parametrize("answers", [None, ANSWERS])
@pytest.mark.parametrize("batch", [2, 32])
def test_questions(answers: list[str] | None, batch: int, photos: Path) -> None:
    texts = ["what is red?", "is it a small dog?", "the cat?", "a car?", "a red tree"]
    items = [
        {"image": name, "question": question, "question_id": number, "answer": ["red"] * 2 + ["no"]}
        for number, (name, question) in enumerate(zip(NAMES, texts, strict=True))
    ]
    del items[3]["answer"]
    bad = [{"image": "nowhere.jpg", "question": "what?"}, {"image": NAMES[0], "question": "?!"}]
    predictor = predictor_of("vqa_decoder")
    source = source_of(photos, items + bad)
    metrics, predictions = evaluate_vqa(predictor, source, answers=answers, batch_size=batch)
    assert [one.question_id for one in predictions] == [0, 1, 2, 3, 4]
    for one, item in zip(predictions, items, strict=True):
        answer = predictor.image(photos / item["image"]).ask(item["question"], answers)
        assert one.answer == answer.text and one.score == pytest.approx(answer.score, abs=1e-5)
        accuracy = vqa_accuracy(one.answer, item["answer"]) if "answer" in item else None
        assert one.accuracy == accuracy
    assert metrics["vqa_questions"] == 5 and metrics["vqa_labelled"] == 4 and metrics["vqa_skipped"] == 2
    assert metrics["vqa_acc"] == pytest.approx(sum(one.accuracy or 0 for one in predictions) / 4)
    assert json.dumps([one.to_json() for one in predictions])


def test_statements(photos: Path) -> None:
    sentences = ["the red dog", "two cats", "the red dog", "a car", "the tree"]
    items: list[dict[str, Any]] = [
        {"images": [NAMES[n], NAMES[(n + 1) % 5]], "sentence": sentence, "label": str(n % 2 == 0)}
        for n, sentence in enumerate(sentences)
    ]
    bad = [
        {"images": NAMES[:2], "sentence": "the red dog", "label": "perhaps"},
        {"images": NAMES[:1], "sentence": "the red dog", "label": "True"},
        {"images": [NAMES[0], "nowhere.jpg"], "sentence": "the red dog", "label": "True"},
    ]
    predictor = predictor_of("pair_classifier")
    metrics, predictions = evaluate_nlvr2(predictor, source_of(photos, items + bad), batch_size=2)
    for one, item in zip(predictions, items, strict=True):
        left, right = (photos / name for name in item["images"])
        probability = predictor.compare(left, right, item["sentence"])
        assert one.probability == pytest.approx(probability, abs=1e-5)
        assert one.correct == ((probability > 0.5) == (item["label"] == "True"))
    correct = [one.correct for one in predictions]
    by_sentence = [correct[0] and correct[2], *correct[1:2], *correct[3:]]
    assert metrics["nlvr2_acc"] == pytest.approx(sum(correct) / 5)
    assert metrics["nlvr2_consistency"] == pytest.approx(sum(by_sentence) / 4)
    assert (metrics["nlvr2_statements"], metrics["nlvr2_skipped"]) == (5, 3)
    assert json.dumps([one.to_json() for one in predictions])


def test_captions(photos: Path) -> None:
    references = [["the red dog", "a round dog"], ["two cars above"], ["the tree"]]
    references += [["a cat beside the car"], ["blue"]]
    items: list[dict[str, Any]] = [
        {"image": name, "caption": texts, "image_id": number}
        for number, (name, texts) in enumerate(zip(NAMES, references, strict=True))
    ]
    predictor = predictor_of("caption_decoder")
    source = source_of(photos, [*items, {"image": NAMES[0], "caption": ["..."], "image_id": 9}])
    metrics, predictions = evaluate_captioning(
        predictor, source, num_beams=2, min_tokens=4, max_tokens=9, java=False, batch_size=2
    )
    assert predictions.pop().cider is None, "there are no references"
    cider = Cider(references)
    for one, item in zip(predictions, items, strict=True):
        config = GenerationConfig(2, min_tokens=4, max_tokens=9)
        assert one.caption == predictor.image(photos / item["image"]).caption(config)
        assert one.references == tuple(item["caption"]) and one.image_id == item["image_id"]
        assert one.cider == pytest.approx(cider.score(one.caption, item["caption"]))
    scores = [one.cider for one in predictions if one.cider is not None]
    assert metrics["caption_cider"] == pytest.approx(sum(scores) / 5)
    assert metrics["caption_images"] == 6
    assert (metrics["caption_labelled"], metrics["caption_skipped"]) == (5, 1)
    assert json.dumps([one.to_json() for one in predictions])


@pytest.mark.parametrize(
    ("answer", "references", "accuracy"),
    [
        ("red", ["red"] * 10, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, (3 * 2 / 3 + 7 * 1) / 10),
        ("a red!", ["red"] * 2 + ["blue"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("green", ["red"] * 2 + ["blue"] * 8, 0.0),
        ("2", ["two"], 1.0),
        ("3", ["two"], 0.0),
    ],
)
def test_vqa_accuracy(answer: str, references: list[str], accuracy: float) -> None:
    assert vqa_accuracy(answer, references) == pytest.approx(accuracy)


def test_accuracy_of_the_most_common_answers(photos: Path, tmp_path: Path) -> None:
    items = [
        {"image": NAMES[0], "question": "how many dogs?", "answer": ["two", "two", "one"]},
        {"image": NAMES[1], "question": "who is it?", "answer": ["red"]},
        {"image": NAMES[2], "question": "what is it?"},
    ]
    training = [
        {"image": "nowhere.jpg", "question": "how many red things?", "answer": "two"},
        {"image": "nowhere.jpg", "question": "what is red?", "answer": ["red", "red"]},
    ]
    (tmp_path / "training.json").write_text(json.dumps(training))
    source = source_of(photos, items)
    metrics, _ = evaluate_vqa(
        predictor_of("vqa_decoder"), source, answers=ANSWERS, baseline=str(tmp_path / "training.json")
    )
    expected = (vqa_accuracy("two", ["two", "two", "one"]) + 1.0) / 2
    assert metrics["vqa_commonest"] == pytest.approx(expected)
    (tmp_path / "training.json").write_text(json.dumps([{"image": "x.jpg", "question": "who?"}]))
    with pytest.raises(ValueError, match="holds no answered question"):
        evaluate_vqa(predictor_of("vqa_decoder"), source, baseline=str(tmp_path / "training.json"))
