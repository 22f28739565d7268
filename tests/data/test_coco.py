"""COCO's form: images with all their annotations, as captions, as regions or both."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from xvlm.data.sources import open_source
from xvlm.errors import InputError
from xvlm.records import BadRecord, Concept

IMAGES = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (7, 9, 12)]
SAID = [{"id": 1, "image_id": 7, "caption": "a"}, {"id": 2, "image_id": 9, "caption": "b"}]
SAID += [{"id": 3, "image_id": "0007", "caption": "c"}]
BOXES = [
    {"id": 1, "image_id": 9, "bbox": [1, 2, 3, 4], "category_id": 18, "iscrowd": 0},
    {"id": 2, "image_id": 9, "bbox": [5, 5, 9, 9], "category_id": 1, "iscrowd": 1},
    {"id": 3, "image_id": 7, "bbox": [2, 2, 9, 9], "category_id": 1},
    {"id": 4, "image_id": 9, "bbox": [2, 2, 9, 9], "category_id": 99},
]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def opened(folder: Path, indent: int | None = None, **fields: Any) -> Any:
    (folder / "a.json").write_text(json.dumps({"info": {}, "images": IMAGES, **fields}, indent=indent))
    return open_source(str(folder / "a.json"))


@pytest.mark.parametrize("indent", [None, 1])
def test_captions_of_one_image_are_one_record(indent: int | None, tmp_path: Path) -> None:
    source = opened(tmp_path, indent, annotations=SAID)
    assert len(source) == 2 and source.shards == [2]
    assert source[0].key == f"{tmp_path}/a.json, image 7" and source[0].image == str(tmp_path / "7.jpg")
    assert [one.concepts for one in (source[0], source[1])] == [(Concept(("a", "c")),), (Concept(("b",)),)]
    assert source[0].extra == {"image_id": 7, "width": 64, "height": 48}


def test_boxes_are_regions_named_by_their_category(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path, annotations=BOXES, categories=CATEGORIES)
    assert source[0].concepts == (Concept(("person",), (2, 2, 11, 11)),)
    assert source[1].concepts == (Concept(("dog",), (1, 2, 4, 6)),)
    assert [one.reason for one in source[1].bad] == ["wrong type"], "a category that is not there"
    assert "1 annotations of crowds are left out" in caplog.text
    assert "1 images without an annotation are left out" in caplog.text


def test_captions_of_boxes(tmp_path: Path) -> None:
    source = opened(
        tmp_path, annotations=[{"image_id": 7, "bbox": [1, 2, 3, 4], "caption": "the cup"}, SAID[0]]
    )
    assert source[0].concepts == (Concept(("a",)), Concept(("the cup",), (1, 2, 4, 6)))


def test_images_of_a_test_set_are_records(tmp_path: Path) -> None:
    source = opened(tmp_path)
    assert [source[i].image for i in range(3)] == [str(tmp_path / f"{n}.jpg") for n in (7, 9, 12)]
    assert source[0].concepts == ()


def test_images_that_are_not_there_are_bad_records(tmp_path: Path) -> None:
    source = opened(
        tmp_path, annotations=[*SAID, {"image_id": 5, "caption": "x"}, {"image_id": 5, "caption": "y"}]
    )
    assert len(source) == 3
    with pytest.raises(BadRecord) as caught:
        source[2]
    assert caught.value.reason == "image is not in images"
    assert caught.value.detail == "2 annotations are about it" and caught.value.key.endswith("image 5")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"annotations": ["x"]}, "annotation 0 is 'x', expected an object with an image_id"),
        ({"annotations": [{"image_id": [1]}]}, "annotation 0 is"),
        ({"images": [IMAGES[0], IMAGES[0]], "annotations": SAID}, "two images have the id 7"),
    ],
)
def test_another_form_is_one_sentence(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        opened(tmp_path, **fields)


def test_an_image_without_a_file_is_a_bad_record(tmp_path: Path) -> None:
    source = opened(tmp_path, images=[{"id": 1}, IMAGES[0]], annotations=SAID[:1])
    with pytest.raises(BadRecord, match="expected an object with id and file_name"):
        source[0]
    assert source[1].concepts == (Concept(("a",)),)
