"""Records that show the same image are evaluated as one image, wherever and under whatever name."""

from __future__ import annotations

import base64
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.kit import count_encoded, predictor_of, source_of, write_images
from tests.tiny import photo, tiny_loaded
from xvlm.data.sources.open import open_source
from xvlm.evaluation.captioning import CaptionPrediction, evaluate_captioning
from xvlm.evaluation.captioning import submission as captions_submission
from xvlm.evaluation.common.same_images import image_groups, normalize_url
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.evaluation.entailment import evaluate_entailment
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.evaluation.vqa import submission as answers_submission
from xvlm.evaluation.weak_grounding import evaluate_weak_grounding
from xvlm.predict import Predictor
from xvlm.records import BadRecord, ImageData, Record


class ImageList:
    """A source of images without texts; `None` stands for a record that cannot be read."""

    name = "listed"

    def __init__(self, images: Sequence[ImageData | None]) -> None:
        self.images = images
        self.shards = [len(images)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Record:
        image = self.images[index]
        if image is None:
            raise BadRecord("line is not JSON", str(index))
        return Record(str(index), image, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, with further names for the first one: links, a hard link and a copy."""
    folder = write_images(tmp_path_factory.mktemp("images"), [f"{number}.png" for number in range(3)])
    (folder / "link.png").symlink_to(folder / "0.png")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "sub").mkdir()
    os.link(folder / "0.png", folder / "hard.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    return folder


NAMES_OF_0 = ["0.png", "./0.png", "again/0.png", "link.png", "hard.png", "copy.png", "sub/../0.png"]


@pytest.mark.parametrize("name", NAMES_OF_0)
def test_names_of_one_file(name: str, folder: Path) -> None:
    images = [str(folder / "1.png"), str(folder / "0.png"), os.path.join(folder, name), str(folder / "2.png")]
    assert image_groups(ImageList(images), None, SkippedSamples()) == [[0], [1, 2], [3]]


def test_bytes_arrays_and_files_of_the_same_content(folder: Path) -> None:
    data = (folder / "0.png").read_bytes()
    pixels = np.asarray(photo(20, 10, 1))
    reshaped = np.ascontiguousarray(pixels.reshape(20, 10, 3))
    images = [data, pixels, str(folder / "copy.png"), pixels.copy(), bytes(data), reshaped]
    images.append(str(folder / "1.png"))
    assert image_groups(ImageList(images), None, SkippedSamples()) == [[0, 2, 4], [1, 3], [5], [6]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://A.org/x/../a.jpg", "https://a.org/a.jpg", True),
        ("https://a.org:443/a.jpg#top", "https://a.org/a.jpg", True),
        ("https://a.org:8443/a.jpg", "https://a.org/a.jpg", False),
        ("https://a.org/a.jpg?w=1", "https://a.org/a.jpg?w=2", False),
        ("s3://Bucket/a.jpg", "s3://bucket/A.jpg", False),
        ("https://a.org/a.jpg", "http://a.org/a.jpg", False),
        ("https://[broken/a.jpg", "https://[broken/b.jpg", False),
    ],
)
def test_urls(one: str, other: str, same: bool) -> None:
    assert (normalize_url(one) == normalize_url(other)) == same


def test_unreadable_records_are_skipped_once_and_missing_files_are_not_merged(folder: Path) -> None:
    skipped = SkippedSamples()
    images = [None, "gone/a.png", str(folder / "0.png"), "gone/b.png", "bad\0name", None]
    assert image_groups(ImageList(images), None, skipped) == [[1], [2], [3], [4]]
    assert [one.key for one in skipped.samples] == ["0", "5"]
    assert image_groups(ImageList(images), 2, SkippedSamples()) == [[1]]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_images_and_records_are_in_the_order_of_the_source(contents: list[int], limit: int) -> None:
    """Groups are the records of equal content, by first occurrence."""
    images = [bytes([number]) * 9 for number in contents]  # of equal size
    groups = image_groups(ImageList(images), limit, SkippedSamples())
    first = list(dict.fromkeys(contents[:limit]))
    assert groups == [[n for n, one in enumerate(contents[:limit]) if one == content] for content in first]


def test_files_of_another_size_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("xvlm.data.files.storage.read_all", lambda path: read.append(path) or b"")
    sizes = {(folder / f"{number}.png").stat().st_size for number in range(3)}
    assert len(sizes) == 3
    images = ImageList([str(folder / f"{n}.png") for n in (0, 1, 2, 0)])
    assert len(image_groups(images, None, SkippedSamples())) == 3
    assert read == []


CAPTIONS = {0: ["a red dog", "the dog"], 1: ["a tree", "small tree"], 2: ["a car", "a blue car"]}


@pytest.mark.parametrize("other_name", ["0.png", "copy.png", "link.png", "./0.png"])
def test_retrieval_with_one_caption_per_record(other_name: str, folder: Path) -> None:
    """All first captions, then all second ones, give the result of one record for each image."""
    predictor = Predictor(tiny_loaded())
    together = source_of(folder, [{"image": f"{n}.png", "caption": CAPTIONS[n]} for n in CAPTIONS])
    expected, expected_result = evaluate_retrieval(predictor, together)
    lines = [{"image": f"{n}.png", "caption": CAPTIONS[n][0]} for n in CAPTIONS]
    lines += [{"image": other_name, "caption": CAPTIONS[0][1]}]
    lines += [{"image": f"{n}.png", "caption": CAPTIONS[n][1]} for n in (1, 2)]
    metrics, result = evaluate_retrieval(predictor, source_of(folder, lines, "lines.json"))
    assert metrics == pytest.approx(expected) and metrics["retrieval_images"] == 3
    assert result.texts == expected_result.texts and result.image_N.tolist() == [0, 0, 1, 1, 2, 2]


def test_tar_members_and_base64_are_joined_by_content(folder: Path, tmp_path: Path) -> None:
    for index, number in enumerate((0, 1, 0, 1)):
        shutil.copy(folder / f"{number}.png", tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(CAPTIONS[number][index // 2])
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in sorted([*tmp_path.glob("*.png"), *tmp_path.glob("*.txt")]):
            tar.add(path, path.name)
    encoded = {n: base64.b64encode((folder / f"{n}.png").read_bytes()).decode() for n in (0, 1)}
    lines = [{"binary": encoded[n % 2], "caption": CAPTIONS[n % 2][n // 2]} for n in range(4)]
    for source in (open_source(str(tmp_path / "images.tar")), source_of(tmp_path, lines)):
        metrics, result = evaluate_retrieval(Predictor(tiny_loaded()), source, memory_gb=0.0)
        assert metrics["retrieval_images"] == 2 and result.texts == CAPTIONS[0] + CAPTIONS[1]


def test_phrases_of_an_image_share_its_encoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0.png", "1.png", "copy.png", "2.png", "./1.png"]
    items = [{"image": name, "text": f"a dog {n}", "bbox": [n, 3, 20, 20]} for n, name in enumerate(names)]
    predictor = Predictor(tiny_loaded())
    encoded = count_encoded(predictor, monkeypatch)
    _, predictions = evaluate_grounding(predictor, source_of(folder, items))
    assert encoded == [3]
    assert [one.text for one in predictions] == [item["text"] for item in items]
    for one, name in zip(predictions, names, strict=True):
        assert isinstance(one.image, str) and one.image == os.path.join(folder, name)
        expected = predictor.image(folder / name).ground(one.text)
        assert one.predicted_xyxy == pytest.approx(expected.box_xyxy, abs=1e-3)


def test_candidates_are_the_boxes_of_all_records_of_the_image(folder: Path) -> None:
    boxes = [[0, 0, 20, 20], [5, 5, 30, 30], [10, 0, 25, 40], [0, 0, 20, 20]]
    names = ["0.png", "1.png", "copy.png", "./0.png"]
    items = [{"image": n, "text": "a dog", "bbox": b} for n, b in zip(names, boxes, strict=True)]
    metrics, predictions = evaluate_weak_grounding(Predictor(tiny_loaded()), source_of(folder, items))
    of_0 = ((0.0, 0.0, 20.0, 20.0), (10.0, 0.0, 35.0, 40.0))
    assert [one.candidates_xyxy for one in predictions] == [of_0, ((5.0, 5.0, 35.0, 35.0),), of_0, of_0]
    assert metrics["weak_grounding_chance"] == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)


def test_many_phrases_of_an_image_are_split_into_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xvlm.evaluation.common.queries.batches.__defaults__", (4,))
    items = [{"image": f"{n % 2}.png", "text": f"dog {n}", "bbox": [n, 0, 20, 20]} for n in range(12)]
    _, predictions = evaluate_weak_grounding(Predictor(tiny_loaded()), source_of(folder, items))
    assert [one.text for one in predictions] == [item["text"] for item in items]
    assert {len(one.candidates_xyxy) for one in predictions} == {6}


def captioned(folder: Path, items: list[dict[str, Any]]) -> list[CaptionPrediction]:
    predictor = predictor_of("caption_decoder")
    return evaluate_captioning(predictor, source_of(folder, items), max_tokens=8, java=False)[1]


@pytest.mark.parametrize("ids", [["000123", 123], [123, "123"]])
def test_captions_of_the_same_image_and_id_are_joined(ids: list[Any], folder: Path) -> None:
    texts = ["a red dog", "a tree", "the dog"]
    items = [
        {"image": name, "caption": text, "image_id": image_id}
        for name, text, image_id in zip(
            ["0.png", "1.png", "./0.png"], texts, [ids[0], 7, ids[1]], strict=True
        )
    ]
    predictions = captioned(folder, items)
    assert [one.references for one in predictions] == [("a red dog", "the dog"), ("a tree",)]
    assert [one["image_id"] for one in captions_submission(predictions)] == [ids[0], 7]


def test_an_image_with_two_ids_is_captioned_for_both(folder: Path) -> None:
    items = [{"image": "0.png", "caption": "a dog", "image_id": n} for n in (1, 2)]
    predictions = captioned(folder, items)
    assert [one["image_id"] for one in captions_submission(predictions)] == [1, 2]
    assert predictions[0].caption == predictions[1].caption


def test_references_need_not_be_in_the_models_vocabulary(folder: Path) -> None:
    items = [{"image": "0.png", "caption": ["ein Hund", "狗"], "image_id": 1}]
    predictions = captioned(folder, items)
    assert predictions[0].references == ("ein Hund", "狗")


def test_questions_about_an_image_share_its_encoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0.png", "1.png", "copy.png", "0.png"]
    items = [
        {"image": name, "question": f"a dog {n}?", "answer": "red", "question_id": question_id}
        for n, (name, question_id) in enumerate(zip(names, [5, 6, "7", "007"], strict=True))
    ]
    predictor = predictor_of("vqa_decoder")
    encoded = count_encoded(predictor, monkeypatch)
    metrics, predictions = evaluate_vqa(predictor, source_of(folder, items), answers=["red", "blue"])
    assert encoded == [2] and metrics["vqa_questions"] == 4
    assert [one.question_id for one in predictions] == [5, 6, "7", "007"]
    assert [one["question_id"] for one in answers_submission(predictions)] == [5, 6, "7"]


def test_hypotheses_about_an_image_share_its_encoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0.png", "1.png", "copy.png"]
    items = [{"image": name, "sentence": f"a dog {n}", "label": "yes"} for n, name in enumerate(names)]
    predictor = predictor_of("classifier", ("no", "yes"))
    encoded = count_encoded(predictor, monkeypatch)
    _, predictions = evaluate_entailment(predictor, source_of(folder, items))
    assert encoded == [2] and [one.hypothesis for one in predictions] == ["a dog 0", "a dog 1", "a dog 2"]
