"""COCO's form as tools write it: nothing false is learnt from it, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.releases import RELEASES
from tests.tiny import photo
from xvlm.data.sources.open import open_source
from xvlm.prepare.importing import import_annotations
from xvlm.prepare.prepare import Prepared, prepare
from xvlm.records import Record

CATEGORIES = [{"id": 0, "name": "animals"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
DOG = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40]}


def imported(
    folder: Path, annotations: list[Any], images: list[Any] | None = None, **options: Any
) -> tuple[Prepared, list[Record]]:
    """Import annotations of a.jpg, 200 x 100, and of b.jpg."""
    for number, name in enumerate(("a.jpg", "b.jpg")):
        photo(200, 100, number).save(folder / name)
    value = {"images": images or [IMAGE], "annotations": annotations, "categories": CATEGORIES}
    (folder / "coco.json").write_text(json.dumps(value))
    done = import_annotations(
        str(folder / "coco.json"), str(folder / "out"), workers=1, sheet=False, **options
    )
    source = open_source(str(folder / "out"))
    return done, [source[number] for number in range(len(source))]


def boxes(record: Record) -> dict[str, Any]:
    return {one.texts[0]: one.box_xyxy for one in record.concepts}


def test_categories_without_annotation_are_not_absent(tmp_path: Path) -> None:
    """Roboflow writes a parent category that no annotation has."""
    _, (record,) = imported(tmp_path, [DOG])
    assert record.absent_texts == () and boxes(record) == {"dog": (10, 10, 60, 50)}


def test_negative_categories_are_absent(tmp_path: Path) -> None:
    _, (record,) = imported(tmp_path, [DOG], [{**IMAGE, "neg_category_ids": [2]}])
    assert record.absent_texts == ("cat",)


# Rows 10 to 29 of columns 20 to 59, down the columns of 100 pixels.
COUNTS = [20 * 100 + 10, 20, *([80, 20] * 39), 200 * 100 - 59 * 100 - 30]
RLE = {"size": [100, 200], "counts": COUNTS}


@pytest.mark.parametrize("box", [{"bbox": []}, {"bbox": None}, {"bbox": [0, 0, 0, 0]}, {}])
def test_a_mask_without_box_gets_the_box_around_it(box: dict[str, Any], tmp_path: Path) -> None:
    cat = {"id": 2, "image_id": 1, "category_id": 2, "segmentation": RLE, **box}
    done, (record,) = imported(tmp_path, [DOG, cat])
    assert boxes(record) == {"dog": (10, 10, 60, 50), "cat": (20, 10, 60, 30)}
    assert record.absent_texts == () and done.tally("left_out").counts == {}


@pytest.mark.parametrize("segmentation", [{"size": [1, 2], "counts": "?"}, [], None])
def test_an_annotation_without_box_is_counted(segmentation: Any, tmp_path: Path) -> None:
    cat = {"id": 2, "image_id": 1, "category_id": 2, "bbox": [], "segmentation": segmentation}
    done, (record,) = imported(tmp_path, [DOG, cat], [{**IMAGE, "neg_category_ids": [2]}])
    assert boxes(record) == {"dog": (10, 10, 60, 50)} and record.absent_texts == ()
    assert done.tally("left_out").counts == {"annotation without box": 1}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """Damage of one annotation or image does not stop the others."""
    images = [
        IMAGE,
        {**IMAGE, "id": 2, "file_name": "b.jpg"},
        {**IMAGE, "id": 3, "file_name": "a.jpg"},
        {**IMAGE, "id": 3, "file_name": "b.jpg"},
        {**IMAGE, "id": 1},
    ]
    annotations = [DOG, {**DOG, "iscrowd": 1}, "x", {**DOG, "image_id": [1]}, {**DOG, "image_id": 3}]
    done, (record,) = imported(tmp_path, annotations, images)
    assert boxes(record) == {"dog": (10, 10, 60, 50)}
    assert done.tally("left_out").counts == {
        "crowd annotation": 1,
        "annotation without an image's id": 2,
        "image without annotation": 1,
        "repeated id of an image": 3,
    }
    examples = done.tally("left_out").examples["repeated id of an image"]
    assert "two images have the id 1; one is 'a.jpg'" in examples[0]


def test_absences_of_coco_itself(tmp_path: Path) -> None:
    """COCO's annotations are exhaustive; a crowd, or an annotation without box, is there too."""
    RELEASES["coco"](tmp_path / "in")
    for year in ("train2014", "val2014"):
        path = tmp_path / f"in/annotations/instances_{year}.json"
        value = json.loads(path.read_text())
        value["categories"] += [{"id": 100, "name": "cat"}, {"id": 101, "name": "fox"}]
        value["annotations"] += [
            {"id": 900 + number, "image_id": one["id"], "category_id": 100, "bbox": []}
            for number, one in enumerate(value["images"])
        ]
        path.write_text(json.dumps(value))
    done = prepare("coco", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    source = open_source(str(tmp_path / "out"))
    found = [source[number].absent_texts for number in range(len(source))]
    assert any("fox" in texts for texts in found) and not any("cat" in texts for texts in found)
    assert done.tally("left_out").counts["annotation without box"] > 0
