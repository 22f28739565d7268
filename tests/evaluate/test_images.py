"""One image is one image, wherever its records stand and however they name it."""

from __future__ import annotations

import base64
import json
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

from tests.tiny import photo, tiny_loaded, tiny_loaded_for
from xvlm.data.sources import JsonSource, open_source
from xvlm.evaluate._images import image_groups, normal_url
from xvlm.evaluate._skipped import Skipped
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.evaluate.captioning import submission as captions_submission
from xvlm.evaluate.entailment import evaluate_entailment
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.evaluate.vqa import submission as answers_submission
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.model.xvlm import Part
from xvlm.predict import Predictor
from xvlm.records import BadRecord, ImageData, Record


class Listed:
    """A source of images alone; `None` is a record that cannot be read."""

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
    """Three photographs; names for the first one: a link, a hard link, a copy, and a detour."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        photo(60 + 5 * number, 50, number).save(folder / f"{number}.png")
    (folder / "link.png").symlink_to(folder / "0.png")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "sub").mkdir()
    os.link(folder / "0.png", folder / "hard.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    return folder


NAMES_OF_0 = ["0.png", "./0.png", "again/0.png", "link.png", "hard.png", "copy.png", "sub/../0.png"]


def source_of(folder: Path, items: list[dict[str, Any]], name: str = "items.json") -> JsonSource:
    path = folder / name
    path.write_text(json.dumps(items))
    return JsonSource(path)


def predictor_of(part: Part, labels: tuple[str, ...] = ()) -> Predictor:
    return Predictor(tiny_loaded_for(part, labels))


def counted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call encodes."""
    shown: list[int] = []
    encode = predictor.encode_images
    monkeypatch.setattr(
        predictor, "encode_images", lambda pixels: shown.append(len(pixels)) or encode(pixels)
    )
    return shown


@pytest.mark.parametrize("name", NAMES_OF_0)
def test_names_of_one_file(name: str, folder: Path) -> None:
    images = [str(folder / "1.png"), str(folder / "0.png"), os.path.join(folder, name), str(folder / "2.png")]
    assert image_groups(Listed(images), None, Skipped()) == [[0], [1, 2], [3]]


def test_bytes_arrays_and_files_of_the_same_content(folder: Path) -> None:
    data = (folder / "0.png").read_bytes()
    pixels = np.asarray(photo(20, 10, 1))
    turned = np.ascontiguousarray(pixels.reshape(20, 10, 3))
    images = [
        data,
        pixels,
        str(folder / "copy.png"),
        pixels.copy(),
        bytes(data),
        turned,
        str(folder / "1.png"),
    ]
    assert image_groups(Listed(images), None, Skipped()) == [[0, 2, 4], [1, 3], [5], [6]]


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
    assert (normal_url(one) == normal_url(other)) == same


def test_records_that_cannot_be_read_are_skipped_once_and_missing_files_are_apart(folder: Path) -> None:
    skipped = Skipped()
    images = [None, "gone/a.png", str(folder / "0.png"), "gone/b.png", "bad\0name", None]
    assert image_groups(Listed(images), None, skipped) == [[1], [2], [3], [4]]
    assert [one.key for one in skipped.samples] == ["0", "5"]
    assert image_groups(Listed(images), 2, Skipped()) == [[1]]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_images_and_records_stand_in_the_sources_order(contents: list[int], limit: int) -> None:
    """Against the definition: records of equal content, by first appearance."""
    images = [bytes([number]) * 9 for number in contents]  # of equal size
    groups = image_groups(Listed(images), limit, Skipped())
    first = list(dict.fromkeys(contents[:limit]))
    assert groups == [[n for n, one in enumerate(contents[:limit]) if one == content] for content in first]


def test_files_of_another_size_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("xvlm.data.files.read_all", lambda path: read.append(path) or b"")
    sizes = {(folder / f"{number}.png").stat().st_size for number in range(3)}
    assert len(sizes) == 3
    assert len(image_groups(Listed([str(folder / f"{n}.png") for n in (0, 1, 2, 0)]), None, Skipped())) == 3
    assert read == []


CAPTIONS = {0: ["a red dog", "the dog"], 1: ["a tree", "small tree"], 2: ["a car", "a blue car"]}


@pytest.mark.parametrize("other_name", ["0.png", "copy.png", "link.png", "./0.png"])
def test_retrieval_of_a_caption_a_line_is_that_of_an_image_a_line(other_name: str, folder: Path) -> None:
    """All first captions, then all second ones, as tables have them."""
    predictor = Predictor(tiny_loaded())
    together = source_of(folder, [{"image": f"{n}.png", "caption": CAPTIONS[n]} for n in CAPTIONS])
    expected, ranked = evaluate_retrieval(predictor, together)
    lines = [{"image": f"{n}.png", "caption": CAPTIONS[n][0]} for n in CAPTIONS]
    lines += [{"image": other_name, "caption": CAPTIONS[0][1]}]
    lines += [{"image": f"{n}.png", "caption": CAPTIONS[n][1]} for n in (1, 2)]
    metrics, found = evaluate_retrieval(predictor, source_of(folder, lines, "lines.json"))
    assert metrics == pytest.approx(expected) and metrics["retrieval_images"] == 3
    assert found.texts == ranked.texts and found.image_T.tolist() == [0, 0, 1, 1, 2, 2]


def test_tar_members_and_base64_are_joined_by_content(folder: Path, tmp_path: Path) -> None:
    for place, number in enumerate((0, 1, 0, 1)):
        shutil.copy(folder / f"{number}.png", tmp_path / f"{place}.png")
        (tmp_path / f"{place}.txt").write_text(CAPTIONS[number][place // 2])
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in sorted([*tmp_path.glob("*.png"), *tmp_path.glob("*.txt")]):
            tar.add(path, path.name)
    encoded = {n: base64.b64encode((folder / f"{n}.png").read_bytes()).decode() for n in (0, 1)}
    lines = [{"binary": encoded[n % 2], "caption": CAPTIONS[n % 2][n // 2]} for n in range(4)]
    for source in (open_source(str(tmp_path / "some.tar")), source_of(tmp_path, lines)):
        metrics, found = evaluate_retrieval(Predictor(tiny_loaded()), source, memory=0.0)
        assert metrics["retrieval_images"] == 2 and found.texts == CAPTIONS[0] + CAPTIONS[1]


def test_phrases_of_an_image_are_asked_on_one_encoding_in_the_sources_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["0.png", "1.png", "copy.png", "2.png", "./1.png"]
    items = [{"image": name, "text": f"a dog {n}", "bbox": [n, 3, 20, 20]} for n, name in enumerate(names)]
    predictor = Predictor(tiny_loaded())
    shown = counted(predictor, monkeypatch)
    _, predictions = evaluate_grounding(predictor, source_of(folder, items))
    assert shown == [3]
    assert [one.text for one in predictions] == [item["text"] for item in items]
    for one, name in zip(predictions, names, strict=True):
        assert isinstance(one.image, str) and one.image == os.path.join(folder, name)
        expected = predictor.image(folder / name).ground(one.text)
        assert one.predicted_xyxy == pytest.approx(expected.box_xyxy, abs=1e-3)


def test_candidates_are_the_boxes_of_all_records_of_the_image(folder: Path) -> None:
    boxes = [[0, 0, 20, 20], [5, 5, 30, 30], [10, 0, 25, 40], [0, 0, 20, 20]]
    names = ["0.png", "1.png", "copy.png", "./0.png"]
    items = [{"image": n, "text": "a dog", "bbox": b} for n, b in zip(names, boxes, strict=True)]
    metrics, predictions = evaluate_maps(Predictor(tiny_loaded()), source_of(folder, items))
    of_0 = ((0.0, 0.0, 20.0, 20.0), (10.0, 0.0, 35.0, 40.0))
    assert [one.candidates_xyxy for one in predictions] == [of_0, ((5.0, 5.0, 35.0, 35.0),), of_0, of_0]
    assert metrics["weak_grounding_chance"] == pytest.approx((0.5 + 1 + 0.5 + 0.5) / 4)


def test_an_image_about_which_much_is_asked_is_asked_in_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xvlm.evaluate._read.batches.__defaults__", (4,))
    items = [{"image": f"{n % 2}.png", "text": f"dog {n}", "bbox": [n, 0, 20, 20]} for n in range(12)]
    _, predictions = evaluate_maps(Predictor(tiny_loaded()), source_of(folder, items))
    assert [one.text for one in predictions] == [item["text"] for item in items]
    assert {len(one.candidates_xyxy) for one in predictions} == {6}


@pytest.mark.parametrize("ids", [["000123", 123], [123, "123"]])
def test_captions_of_one_image_and_id_are_references_of_one(ids: list[Any], folder: Path) -> None:
    said = ["a red dog", "a tree", "the dog"]
    items = [
        {"image": name, "caption": text, "image_id": image_id}
        for name, text, image_id in zip(["0.png", "1.png", "./0.png"], said, [ids[0], 7, ids[1]], strict=True)
    ]
    _, found = evaluate_captions(predictor_of("captions"), source_of(folder, items), max_tokens=8, java=False)
    assert [one.references for one in found] == [("a red dog", "the dog"), ("a tree",)]
    assert [one["image_id"] for one in captions_submission(found)] == [ids[0], 7]


def test_one_image_under_two_ids_is_told_under_both(folder: Path) -> None:
    items = [{"image": "0.png", "caption": "a dog", "image_id": n} for n in (1, 2)]
    _, found = evaluate_captions(predictor_of("captions"), source_of(folder, items), max_tokens=8, java=False)
    assert [one["image_id"] for one in captions_submission(found)] == [1, 2]
    assert found[0].caption == found[1].caption


def test_references_need_not_be_in_the_models_vocabulary(folder: Path) -> None:
    items = [{"image": "0.png", "caption": ["ein Hund", "狗"], "image_id": 1}]
    _, found = evaluate_captions(predictor_of("captions"), source_of(folder, items), max_tokens=8, java=False)
    assert found[0].references == ("ein Hund", "狗")


def test_questions_about_an_image_are_asked_on_one_encoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["0.png", "1.png", "copy.png", "0.png"]
    items = [
        {"image": name, "question": f"a dog {n}?", "answer": "red", "question_id": question_id}
        for n, (name, question_id) in enumerate(zip(names, [5, 6, "7", "007"], strict=True))
    ]
    predictor = predictor_of("answers")
    shown = counted(predictor, monkeypatch)
    metrics, found = evaluate_questions(predictor, source_of(folder, items), answers=["red", "blue"])
    assert shown == [2] and metrics["vqa_questions"] == 4
    assert [one.question_id for one in found] == [5, 6, "7", "007"]
    assert [one["question_id"] for one in answers_submission(found)] == [5, 6, "7"]


def test_hypotheses_about_an_image_are_asked_on_one_encoding(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["0.png", "1.png", "copy.png"]
    items = [{"image": name, "sentence": f"a dog {n}", "label": "yes"} for n, name in enumerate(names)]
    predictor = predictor_of("labels", ("no", "yes"))
    shown = counted(predictor, monkeypatch)
    _, found = evaluate_entailment(predictor, source_of(folder, items))
    assert shown == [2] and [one.hypothesis for one in found] == ["a dog 0", "a dog 1", "a dog 2"]
