"""Test sets without references are predicted and counted, and submissions hold the predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.kit import NAMES, predictor_of, source_of
from tests.tiny import photo
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation import captioning, vqa
from xvlm.evaluation.captioning import evaluate_captioning
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.predict import Predictor
from xvlm.records import Record


@pytest.fixture(scope="module")
def captioner() -> Predictor:
    return predictor_of("caption_decoder")


def captions_of(
    predictor: Predictor, folder: Path, items: list[dict[str, Any]], **options: Any
) -> tuple[dict[str, float], list[captioning.CaptionPrediction]]:
    options = {"java": False, "max_tokens": 9, **options}
    return evaluate_captioning(predictor, source_of(folder, items), **options)


def test_images_of_a_test_set(captioner: Predictor, photos: Path) -> None:
    """Ids come from the records or, as for COCO, from the file names."""
    items = [
        {"image": NAMES[0], "image_id": 17, "width": 60, "height": 50},
        {"image": "COCO_val2014_000000391895.jpg"},
        {"image": NAMES[1], "image_id": "b", "caption": []},
        {"image": "nowhere.jpg", "image_id": 5},
    ]
    metrics, predictions = captions_of(captioner, photos, items)
    assert metrics == {"caption_images": 3, "caption_skipped": 1}
    assert all(one.cider is None and one.references == () for one in predictions)
    submitted = captioning.submission(predictions)
    assert [one["image_id"] for one in submitted] == [17, 391895, "b"]
    assert [one["caption"] for one in submitted] == [one.caption for one in predictions]
    assert [one.keys() for one in submitted] == [{"image_id", "caption"}] * 3
    assert json.dumps(submitted)


def test_records_of_one_image_are_joined(captioner: Predictor, photos: Path) -> None:
    """In COCO's training files, every caption has its own record."""
    references = {
        NAMES[0]: ["the red dog", "a dog"],
        NAMES[1]: ["two cats"],
        NAMES[2]: ["a tree", "a green tree", "the"],
    }
    together = [
        {"image": name, "image_id": n, "caption": texts} for n, (name, texts) in enumerate(references.items())
    ]
    apart = [
        {"image": name, "image_id": n, "caption": texts[number]}
        for number in range(3)
        for n, (name, texts) in enumerate(references.items())
        if number < len(texts)
    ]
    expected, joined = captions_of(captioner, photos, together)
    metrics, predictions = captions_of(captioner, photos, apart)
    assert metrics == pytest.approx(expected)
    assert [(one.image_id, one.caption, one.references, one.cider) for one in predictions] == [
        (one.image_id, one.caption, one.references, one.cider) for one in joined
    ]


def test_images_of_one_name_in_two_folders_are_not_joined(captioner: Predictor, photos: Path) -> None:
    (photos / "other").mkdir(exist_ok=True)
    photo(44, 50, 9).save(photos / "other" / NAMES[0])
    _, predictions = captions_of(captioner, photos, [{"image": NAMES[0]}, {"image": f"other/{NAMES[0]}"}])
    assert len(predictions) == 2


@pytest.mark.parametrize(
    ("image", "extra", "expected"),
    [
        ("a/COCO_val2014_000000000042.jpg", {}, 42),
        ("a/000000000042.jpg", {}, 42),
        ("a/dog.jpg", {}, "dog.jpg"),
        ("a/dog_2b.jpg", {}, "dog_2b.jpg"),
        ("a/dog_3.jpg", {"image_id": 0}, 0),
        (b"jpeg", {}, "key"),
        (b"jpeg", {"image_id": "x"}, "x"),
    ],
)
def test_image_id(image: Any, extra: dict[str, Any], expected: Any) -> None:
    assert captioning.image_id(Record("key", image, (), extra)) == expected


def test_samples_do_not_depend_on_the_batch_or_the_folder(captioner: Predictor, photos: Path) -> None:
    photo(60, 50, 0).save(photos / "again.jpg")  # the same as the first one
    items = [{"image": str(photos / name)} for name in [*NAMES, "again.jpg"]]
    options = {"top_p": 0.95, "temperature": 1.5, "seed": 3}
    _, one = captions_of(captioner, photos, items, batch_size=1, **options)
    (photos / "moved").mkdir(exist_ok=True)
    _, five = captions_of(captioner, photos / "moved", items, batch_size=5, **options)
    captions = [prediction.caption for prediction in one]
    assert captions == [prediction.caption for prediction in five] and len(set(captions)) == 6
    _, other = captions_of(captioner, photos, items, **{**options, "seed": 4})
    assert captions != [prediction.caption for prediction in other]


def test_questions_of_a_test_set(photos: Path) -> None:
    """A question without an id gets its record's key, and its index if there are several."""
    items: list[dict[str, Any]] = [
        {"image": NAMES[0], "question": "what is red?", "question_id": 262148000},
        {"image": NAMES[1], "question": "the car?", "question_id": 0},
        {"image": NAMES[2], "question": "is it a dog?"},
        {
            "image": NAMES[3],
            "questions": [{"question": "the car?"}, {"question": "a tree?", "question_id": "x"}],
        },
    ]
    source = source_of(photos, items)
    assert isinstance(source, JsonSource)
    answers = ["red", "no", "two dogs"]
    metrics, predictions = evaluate_vqa(predictor_of("vqa_decoder"), source, answers=answers)
    assert metrics == {"vqa_questions": 5, "vqa_skipped": 0}
    submitted = vqa.submission(predictions)
    keys = [source[index].key for index in range(4)]
    assert [one["question_id"] for one in submitted] == [262148000, 0, keys[2], f"{keys[3]}#0", "x"]
    assert [one["answer"] for one in submitted] == [one.answer for one in predictions]
    assert {one["answer"] for one in submitted} <= set(answers) and json.dumps(submitted)


def test_impossible_candidate_answers_are_refused(photos: Path) -> None:
    image = predictor_of("vqa_decoder").image(photos / NAMES[0])
    for answers in ([], (), "red"):
        with pytest.raises(ValueError, match="must be a list of at least one text"):
            image.ask("the car?", answers)
    with pytest.raises(ValueError, match="answers contains ' '; an answer must not be empty"):
        image.ask("the car?", ["red", " "])
    longest = "dog " * 46  # with special tokens, as long as the decoder's 48 positions
    assert image.ask("the car?", [longest, "red"]).text in (longest, "red")
    with pytest.raises(ValueError, match=r"begins with 'dog dog .* it may have 48 tokens"):
        image.ask("the car?", [longest + "dog", "red"])
