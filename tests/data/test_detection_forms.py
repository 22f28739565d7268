"""Forms with several boxes of a text, or none: our own, gRefCOCO, COCO and LVIS, MDETR, ODVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.grefcoco_data import refs, write_grefcoco
from tests.refcoco_data import IMAGES
from xvlm.common.errors import InputError
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.data.sources.record_fields import record_from_fields
from xvlm.records import BadRecord, Record

Found = dict[str, list[tuple[float, ...]]]


def targets(record: Record) -> Found:
    found: Found = {}
    for concept in record.concepts:
        for text in concept.texts:
            found.setdefault(text, []).extend(concept.targets_xyxy)
    return found


OWN = [
    ({"text": "a dog", "bbox": [1, 2, 3, 4]}, {"a dog": [(1, 2, 4, 6)]}, ()),
    ({"text": "dogs", "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"dogs": [(1, 2, 4, 6), (5, 6, 12, 14)]}, ()),
    ({"text": "a cat", "no_target": True}, {}, ("a cat",)),
    ({"text": "a cat", "no_target": 1, "bbox": [[0, 0, 0, 0]]}, {}, ("a cat",)),
    ({"text": ["a cat", "a fox"], "bbox": []}, {}, ("a cat", "a fox")),
    ({"text": "a dog", "no_target": False, "bbox": [1, 2, 3, 4]}, {"a dog": [(1, 2, 4, 6)]}, ()),
    ({"caption": "a park", "absent": ["a cat", "a cat", "a fox"]}, {"a park": []}, ("a cat", "a fox")),
    ({"absent": "a cat"}, {}, ("a cat",)),
    (
        {"elems": [{"caption": "a dog", "bb": [1, 2, 3, 4]}, {"caption": "a cat", "bb": []}]},
        {"a dog": [(1, 2, 4, 6)]},
        ("a cat",),
    ),
]


@pytest.mark.parametrize(("fields", "found", "absent"), OWN)
def test_own_forms(fields: dict[str, Any], found: Found, absent: tuple[str, ...]) -> None:
    record = record_from_fields({"image": "a.jpg", **fields}, key="k")
    assert targets(record) == found and record.absent_texts == absent and record.bad == ()
    assert not {"absent", "no_target", "bbox"} & set(record.extra)


@pytest.mark.parametrize("absent", [3, [3], None, {"a": 1}])
def test_a_wrong_absent_text_is_named(absent: Any) -> None:
    with pytest.raises(BadRecord, match="absent"):
        record_from_fields({"image": "a.jpg", "absent": absent}, key="k")
    fields = {"image": "a.jpg", "caption": "a park", "absent": absent}
    (bad,) = record_from_fields(fields, key="k").bad
    assert "absent" in bad.detail


@pytest.fixture
def grefcoco(tmp_path: Path) -> Path:
    write_grefcoco(tmp_path)
    return tmp_path


def test_grefcoco(grefcoco: Path) -> None:
    source = open_source(f"grefcoco:{grefcoco}:unc:val", "images")
    assert len(source) == 2
    first, second = source[0], source[1]
    assert first.image == f"images/{IMAGES[58]}" and first.absent_texts == ("a purple cow",)
    pair = [(4, 6, 44.5, 36), (30, 20, 74, 60)]
    assert targets(first) == {"both dogs": pair, "two dogs": pair}
    assert targets(second) == {"the tree": [(1, 2, 31, 32)]} and second.absent_texts == ()
    assert first.extra["image_id"] == 58 and (first.extra["width"], first.extra["height"]) == (80, 64)
    assert len(open_source(f"grefcoco:{grefcoco}:unc")) == 2


def test_grefcoco_names_what_is_missing(grefcoco: Path) -> None:
    """A phrase one of whose boxes is unknown would count as found too early: it is left out, and reported."""
    with pytest.raises(BadRecord, match="annotation 999"):
        open_source(f"grefcoco:{grefcoco}:unc:testA")[0]
    record = open_source(f"grefcoco:{grefcoco}:unc:testB")[0]
    assert targets(record) == {"a cat": [(40, 8, 60, 58)]}
    assert [bad.detail for bad in record.bad] == ["annotation 999"]
    with pytest.raises(InputError, match=r"split is 'dev'.*testA, testB, train, val"):
        open_source(f"grefcoco:{grefcoco}:unc:dev")
    with pytest.raises(InputError, match="expected grefcoco:FOLDER"):
        open_source(f"grefcoco:{grefcoco}")
    wrong = [{**refs()[0], "ann_id": 581}]
    (grefcoco / "grefs(unc).json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="ann_id of ref 0 is 581, expected list"):
        open_source(f"grefcoco:{grefcoco}:unc:val")


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], folder: Path) -> JsonSource:
    categories = [{"id": n, "name": name} for n, name in enumerate(("dog", "cat", "fox", "cow"), 1)]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return JsonSource(path)


def test_categories_of_coco(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg", "neg_category_ids": [3, 1, 9]}]
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1},
        {"id": 2, "image_id": 1, "bbox": [5, 6, 7, 8], "category_id": 1},
        {"id": 3, "image_id": 1, "bbox": [5, 6, 7, 8], "category_id": 4, "iscrowd": 1},
        {"id": 4, "image_id": 2, "bbox": [5, 6, 7, 8], "category_id": 2},
    ]
    source = coco(images, annotations, tmp_path)
    assert targets(source[0]) == {"dog": [(1, 2, 4, 6), (5, 6, 12, 14)]}
    assert source[0].absent_texts == ("cat", "fox")  # there is a crowd of cows
    assert targets(source[1]) == {"cat": [(5, 6, 12, 14)]}
    assert source[1].absent_texts == ("fox", "dog")  # LVIS names them, and knows nothing of cows


def test_captions_of_coco_have_no_absent_categories(tmp_path: Path) -> None:
    annotations = [{"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "caption": "a brown dog"}]
    source = coco([{"id": 1, "file_name": "1.jpg"}], annotations, tmp_path)
    assert source[0].absent_texts == () and targets(source[0]) == {"a brown dog": [(1, 2, 4, 6)]}


def test_mdetr(tmp_path: Path) -> None:
    caption = "two dogs chase a red ball"
    images = [{"id": 1, "file_name": "1.jpg", "caption": caption, "width": 90, "height": 60}]
    annotations = [
        {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1, "tokens_positive": [[0, 8]]},
        {"id": 2, "image_id": 1, "bbox": [5, 6, 7, 8], "category_id": 1, "tokens_positive": [[0, 8]]},
        {
            "id": 3,
            "image_id": 1,
            "bbox": [9, 9, 5, 5],
            "category_id": 1,
            "tokens_positive": [[15, 16], [21, 25]],
        },
        {"id": 4, "image_id": 1, "bbox": [9, 9, 5, 5], "category_id": 1, "tokens_positive": "all"},
    ]
    path = tmp_path / "mdetr.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))
    record = JsonSource(path)[0]
    found = targets(record)
    assert found == {
        caption: [], "two dogs": [(1, 2, 4, 6), (5, 6, 12, 14)], "a ball": [(9, 9, 14, 14)],
    }  # fmt: skip
    assert len(record.bad) == 1 and record.absent_texts == ()


ODVG_DETECTION = {
    "filename": "a.jpg",
    "height": 60,
    "width": 90,
    "detection": {"instances": [{"bbox": [1, 2, 4, 6], "label": 0, "category": "dog"}]},
}
ODVG_GROUNDING = {
    "filename": "a.jpg",
    "height": 60,
    "width": 90,
    "grounding": {
        "caption": "two dogs and a cat",
        "regions": [
            {"bbox": [[1, 2, 4, 6], [5, 6, 12, 14]], "phrase": "two dogs"},
            {"bbox": [5, 5, 9, 9], "phrase": ["a cat", "cat"]},
        ],
    },
}


def test_odvg() -> None:
    record = record_from_fields(ODVG_DETECTION, key="k", image_root="images")
    assert record.image == "images/a.jpg" and targets(record) == {"dog": [(1, 2, 4, 6)]}
    record = record_from_fields(ODVG_GROUNDING, key="k")
    assert targets(record) == {
        "two dogs and a cat": [],
        "two dogs": [(1, 2, 4, 6), (5, 6, 12, 14)],
        "a cat": [(5, 5, 9, 9)],
        "cat": [(5, 5, 9, 9)],
    }
    assert (record.extra["width"], record.extra["height"]) == (90, 60)


WRONG = [
    {**ODVG_DETECTION, "detection": {"instances": 3}},
    {**ODVG_DETECTION, "detection": {"instances": [3]}},
    {**ODVG_DETECTION, "detection": {"instances": [{"bbox": [1, 2, 3], "category": "dog"}]}},
    {**ODVG_DETECTION, "detection": {"instances": [{"bbox": [1, 2, 3, "x"], "category": "dog"}]}},
    {**ODVG_DETECTION, "detection": {"instances": [{"bbox": [1, 2, 3, 4]}]}},
    {**ODVG_DETECTION, "filename": 7},
    {**ODVG_GROUNDING, "grounding": {"regions": {"bbox": []}}},
]


@pytest.mark.parametrize("fields", WRONG)
def test_wrong_odvg_is_a_bad_record(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRecord):
        record_from_fields(fields, key="k")
