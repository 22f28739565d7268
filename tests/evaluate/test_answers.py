"""Questions, statements, captions: predictions stand with their inputs and are what a user would be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded_for
from xvlm.data.sources import JsonSource
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.metrics.cider import Cider
from xvlm.metrics.vqa import vqa_accuracy
from xvlm.model.decoding import Decoding
from xvlm.model.xvlm import Part
from xvlm.predict import Predictor

NAMES = [f"{number}.jpg" for number in range(5)]
ANSWERS = ["red", "light blue", "two dogs", "no"]


def predictor_of(part: Part, labels: tuple[str, ...] = ()) -> Predictor:
    return Predictor(tiny_loaded_for(part, labels))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(NAMES):
        photo(60 + 5 * number, 50, number).save(folder / name)
    return folder


def source_of(folder: Path, items: list[dict[str, Any]]) -> JsonSource:
    path = folder / "items.json"
    path.write_text(json.dumps(items))
    return JsonSource(path)


@pytest.mark.parametrize("answers", [None, ANSWERS])
@pytest.mark.parametrize("batch", [2, 32])
def test_questions(answers: list[str] | None, batch: int, photos: Path) -> None:
    asked = ["what is red?", "is it a small dog?", "the cat?", "a car?", "a red tree"]
    items = [
        {"image": name, "question": question, "question_id": number, "answer": ["red"] * 2 + ["no"]}
        for number, (name, question) in enumerate(zip(NAMES, asked, strict=True))
    ]
    del items[3]["answer"]
    bad = [{"image": "nowhere.jpg", "question": "what?"}, {"image": NAMES[0], "question": "?!"}]
    predictor = predictor_of("answers")
    source = source_of(photos, items + bad)
    metrics, predictions = evaluate_questions(predictor, source, answers=answers, batch=batch)
    assert [one.question_id for one in predictions] == [0, 1, 2, 3, 4]
    for one, item in zip(predictions, items, strict=True):
        told = predictor.image(photos / item["image"]).ask(item["question"], answers)
        assert one.answer == told.text and one.score == pytest.approx(told.score, abs=1e-5)
        right = vqa_accuracy(one.answer, item["answer"]) if "answer" in item else None
        assert one.accuracy == right
    assert metrics["vqa_questions"] == 5 and metrics["vqa_labelled"] == 4 and metrics["vqa_bad_records"] == 2
    assert metrics["vqa_acc"] == pytest.approx(sum(one.accuracy or 0 for one in predictions) / 4)
    assert json.dumps([one.to_json() for one in predictions])


def test_statements(photos: Path) -> None:
    said = ["the red dog", "two cats", "the red dog", "a car", "the tree"]
    items: list[dict[str, Any]] = [
        {"images": [NAMES[n], NAMES[(n + 1) % 5]], "sentence": sentence, "label": str(n % 2 == 0)}
        for n, sentence in enumerate(said)
    ]
    bad = [
        {"images": NAMES[:2], "sentence": "the red dog", "label": "perhaps"},
        {"images": NAMES[:1], "sentence": "the red dog", "label": "True"},
        {"images": [NAMES[0], "nowhere.jpg"], "sentence": "the red dog", "label": "True"},
    ]
    predictor = predictor_of("pairs")
    metrics, predictions = evaluate_pairs(predictor, source_of(photos, items + bad), batch=2)
    for one, item in zip(predictions, items, strict=True):
        left, right = (photos / name for name in item["images"])
        told = predictor.compare(left, right, item["sentence"])
        assert one.probability == pytest.approx(told, abs=1e-5)
        assert one.right == ((told > 0.5) == (item["label"] == "True"))
    rights = [one.right for one in predictions]
    together = [rights[0] and rights[2], *rights[1:2], *rights[3:]]
    assert metrics["nlvr2_acc"] == pytest.approx(sum(rights) / 5)
    assert metrics["nlvr2_consistency"] == pytest.approx(sum(together) / 4)
    assert (metrics["nlvr2_statements"], metrics["nlvr2_bad_records"]) == (5, 3)
    assert json.dumps([one.to_json() for one in predictions])


def test_captions(photos: Path) -> None:
    said = [
        ["the red dog", "a round dog"],
        ["two cars above"],
        ["the tree"],
        ["a cat beside the car"],
        ["blue"],
    ]
    items: list[dict[str, Any]] = [
        {"image": name, "caption": texts, "image_id": number}
        for number, (name, texts) in enumerate(zip(NAMES, said, strict=True))
    ]
    predictor = predictor_of("captions")
    source = source_of(photos, [*items, {"image": NAMES[0], "caption": ["..."], "image_id": 9}])
    metrics, predictions = evaluate_captions(
        predictor, source, beams=2, min_tokens=4, max_tokens=9, java=False, batch=2
    )
    assert predictions.pop().cider is None, "people said nothing"
    cider = Cider(said)
    for one, item in zip(predictions, items, strict=True):
        decoding = Decoding(2, min_tokens=4, max_tokens=9)
        assert one.caption == predictor.image(photos / item["image"]).caption(decoding)
        assert one.references == tuple(item["caption"]) and one.image_id == item["image_id"]
        assert one.cider == pytest.approx(cider.score(one.caption, item["caption"]))
    scores = [one.cider for one in predictions if one.cider is not None]
    assert metrics["caption_cider"] == pytest.approx(sum(scores) / 5)
    assert (metrics["caption_images"], metrics["caption_labelled"], metrics["caption_bad_records"]) == (
        6,
        5,
        1,
    )
    assert json.dumps([one.to_json() for one in predictions])


@pytest.mark.parametrize(
    ("answer", "people", "accuracy"),
    [
        ("red", ["red"] * 10, 1.0),
        ("red", ["red"] * 3 + ["blue"] * 7, (3 * 2 / 3 + 7 * 1) / 10),
        ("a red!", ["red"] * 2 + ["blue"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("green", ["red"] * 2 + ["blue"] * 8, 0.0),
        ("2", ["two"], 1.0),
        ("3", ["two"], 0.0),
    ],
)
def test_vqa_accuracy(answer: str, people: list[str], accuracy: float) -> None:
    assert vqa_accuracy(answer, people) == pytest.approx(accuracy)


def test_questions_beside_the_commonest_answers(photos: Path, tmp_path: Path) -> None:
    items = [
        {"image": NAMES[0], "question": "how many dogs?", "answer": ["two", "two", "one"]},
        {"image": NAMES[1], "question": "who is it?", "answer": ["red"]},
        {"image": NAMES[2], "question": "what is it?"},
    ]
    known = [
        {"image": "nowhere.jpg", "question": "how many red things?", "answer": "two"},
        {"image": "nowhere.jpg", "question": "what is red?", "answer": ["red", "red"]},
    ]
    (tmp_path / "known.json").write_text(json.dumps(known))
    source = source_of(photos, items)
    metrics, _ = evaluate_questions(
        predictor_of("answers"), source, answers=ANSWERS, baseline=str(tmp_path / "known.json")
    )
    expected = (vqa_accuracy("two", ["two", "two", "one"]) + 1.0) / 2
    assert metrics["vqa_commonest"] == pytest.approx(expected)
    (tmp_path / "known.json").write_text(json.dumps([{"image": "x.jpg", "question": "who?"}]))
    with pytest.raises(ValueError, match="holds no answered question"):
        evaluate_questions(predictor_of("answers"), source, baseline=str(tmp_path / "known.json"))
