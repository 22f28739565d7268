"""COCO's form: each image with all its annotations becomes one record of captions, regions or both."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.data import make
from xvlm.common.errors import InputError
from xvlm.data.sources.open import open_source
from xvlm.records import Concept

IMAGES = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (7, 9, 12)]
CAPTIONS = [
    {"id": number, "image_id": image_id, "caption": caption}
    for number, (image_id, caption) in enumerate([(7, "a"), (9, "b"), ("0007", "c")], start=1)
]
BOXES = [
    {"id": 1, "image_id": 9, "bbox": [1, 2, 3, 4], "category_id": 18, "iscrowd": 0},
    {"id": 2, "image_id": 9, "bbox": [5, 5, 9, 9], "category_id": 1, "iscrowd": 1},
    {"id": 3, "image_id": 7, "bbox": [2, 2, 9, 9], "category_id": 1},
    {"id": 4, "image_id": 9, "bbox": [2, 2, 9, 9], "category_id": 99},
]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def write_and_open(folder: Path, indent: int | None = None, **fields: Any) -> Any:
    (folder / "a.json").write_text(json.dumps({"info": {}, "images": IMAGES, **fields}, indent=indent))
    return open_source(str(folder / "a.json"))


@pytest.mark.parametrize("indent", [None, 1])
def test_captions_of_one_image_are_one_record(indent: int | None, tmp_path: Path) -> None:
    source = write_and_open(tmp_path, indent, annotations=CAPTIONS)
    assert len(source) == 2 and source.shards == [2]
    assert source[0].key == f"{tmp_path}/a.json, image 7" and source[0].image == str(tmp_path / "7.jpg")
    assert source[0].concepts == (Concept(("a", "c")),) and source[1].concepts == (Concept(("b",)),)
    assert source[0].extra == {"image_id": 7, "width": 64, "height": 48}


def test_boxes_are_regions_named_by_their_category(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = write_and_open(tmp_path, annotations=BOXES, categories=CATEGORIES)
    assert source[0].concepts == (Concept(("person",), (2, 2, 11, 11)),)
    assert source[1].concepts == (Concept(("dog",), (1, 2, 4, 6)),)
    assert [error.reason for error in source[1].bad] == ["wrong type"], "an unknown category"
    assert "1 crowd annotations are left out" in caplog.text
    assert "1 images without an annotation are left out" in caplog.text


def test_captions_of_boxes(tmp_path: Path) -> None:
    boxed = {"image_id": 7, "bbox": [1, 2, 3, 4], "caption": "the cup"}
    source = write_and_open(tmp_path, annotations=[boxed, CAPTIONS[0]])
    assert source[0].concepts == (Concept(("a",)), Concept(("the cup",), (1, 2, 4, 6)))


def test_images_of_a_test_set_are_records(tmp_path: Path) -> None:
    source = write_and_open(tmp_path)
    assert [source[i].image for i in range(3)] == [str(tmp_path / f"{number}.jpg") for number in (7, 9, 12)]
    assert source[0].concepts == ()


def test_missing_images_are_bad_records(tmp_path: Path) -> None:
    missing = [{"image_id": 5, "caption": caption} for caption in "xy"]
    source = write_and_open(tmp_path, annotations=[*CAPTIONS, *missing])
    assert len(source) == 3
    error = make.bad_record(source.__getitem__, 2)
    assert error.reason == "image is not in images"
    assert error.detail == "2 annotations refer to it" and error.key.endswith("image 5")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"annotations": ["x"]}, "annotation 0 is 'x', expected an object with an image_id"),
        ({"annotations": [{"image_id": [1]}]}, "annotation 0 is"),
        ({"images": [IMAGES[0], IMAGES[0]], "annotations": CAPTIONS}, "two images have the id 7"),
    ],
)
def test_another_form_is_one_sentence(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        write_and_open(tmp_path, **fields)


def test_an_image_without_a_file_is_a_bad_record(tmp_path: Path) -> None:
    source = write_and_open(tmp_path, images=[{"id": 1}, IMAGES[0]], annotations=CAPTIONS[:1])
    assert "expected an object with id and file_name" in make.bad_record(source.__getitem__, 0).detail
    assert source[1].concepts == (Concept(("a",)),)
