"""The same boxes come out of every form of annotations, which is recognised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.prepare.own import BOXES, FORMS, SIZES, coco, fiftyone, fractions, labelme, write_photos
from tests.published_data import write_lines
from tests.tiny import photo
from xvlm.cli import main
from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.sources.open import open_source
from xvlm.prepare.importing import import_annotations, recognise
from xvlm.registry import names

ALL = names("prepare.forms")
WITH_TEXT = ("labelme", "label_studio", "cvat")
"""Forms that have more than labels."""


@pytest.mark.parametrize("form", ALL)
def test_the_same_boxes_from_every_form(form: str, tmp_path: Path) -> None:
    assert form in FORMS, f"form {form} has no annotations yet; add some to tests/prepare/own.py"
    path = FORMS[form](tmp_path / "in")
    assert recognise(str(path)) == form
    done = import_annotations(str(path), str(tmp_path / "out"), workers=1)
    assert done.total("samples") == 2
    source = open_source(str(tmp_path / "out"))
    for number, name in enumerate(SIZES):
        record = source[number]
        assert (record.extra["width"], record.extra["height"]) == SIZES[name]
        boxes = {one.texts[0]: one for one in record.concepts if one.box_xyxy is not None}
        assert boxes.keys() == BOXES[name].keys()
        for label, box in BOXES[name].items():
            assert boxes[label].box_xyxy == pytest.approx(box, abs=0.02)
        if form in WITH_TEXT and name == "a.jpg":
            assert boxes["cup"].texts == ("cup", "a red cup")
    page = (tmp_path / "out/_look.html").read_text()
    assert "Samples" in page and "cup" in page


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    done = import_annotations(str(labelme(tmp_path / "in")), str(tmp_path / "out"), workers=1, sheet=False)
    assert done.tally("left_out").counts == {"shape without area": 2}
    done = import_annotations(
        str(FORMS["yolo"](tmp_path / "y")), str(tmp_path / "yo"), workers=1, sheet=False
    )
    assert done.tally("left_out").counts == {"image without annotation": 1}


def test_labels_of_fiftyone_without_samples(tmp_path: Path) -> None:
    write_photos(tmp_path / "in/data")
    labels = {
        name[0]: [
            {"label": ["cup", "roof"].index(label), "bounding_box": fractions(name, box)}
            for label, box in BOXES[name].items()
        ]
        for name in SIZES
    }
    (tmp_path / "in/labels.json").write_text(json.dumps({"classes": ["cup", "roof"], "labels": labels}))
    done = import_annotations(str(tmp_path / "in"), str(tmp_path / "out"), workers=1, sheet=False)
    assert done.total("boxes") == 3


def test_xyxy_read_as_xywh_is_said(tmp_path: Path) -> None:
    """The page of samples shows it, too."""
    path = coco(tmp_path / "in")
    value = json.loads(path.read_text())
    for one, box in zip(
        value["annotations"], ([110, 50, 190, 95], [100, 40, 150, 90], [45, 35, 70, 55]), strict=True
    ):
        one["bbox"] = box
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"no sample of .* can be used.*box outside the image"):
        import_annotations(str(path), str(tmp_path / "out"), workers=1)


def test_the_page_of_an_import_says_it_too(tmp_path: Path) -> None:
    """Also if all boxes are within the photo and only clipped; copies and repeated texts may be left out."""
    photo(100, 100, 1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    rows = [
        {"image": name, "caption": ["again"], "elems": [{"caption": "a dog", "bb": [10, 10, 95, 95]}] * 3}
        for name in ("a.png", "b.png")
    ]
    write_lines(tmp_path / "in.jsonl", rows)
    words = ["prepare", "import", str(tmp_path / "in.jsonl"), "--workers", "1", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    assert "6 of these 6 boxes would lie" in (tmp_path / "out/_look.html").read_text()
    leaks = ["prepare", "leaks", str(tmp_path / "out"), "--duplicates", "--out", str(tmp_path / "l.jsonl")]
    assert main(leaks) == 2
    more = ["--exclude", str(tmp_path / "l.jsonl"), "--max-repeats", "1"]
    assert main([*words, str(tmp_path / "again"), *more]) == 0
    counts = json.loads((tmp_path / "again/dataset.json").read_text())
    assert counts["counts"]["samples"] == 1 and counts["counts"]["captions"] == 0


def test_images_without_any_text_are_left_out(tmp_path: Path) -> None:
    """Readers would refuse them."""
    photo(40, 30, 1).save(tmp_path / "a.png")
    write_lines(
        tmp_path / "in.jsonl", [{"image": "a.png", "caption": ["a dog"]}, {"image": "a.png", "tag": 1}]
    )
    done = import_annotations(str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "lines", workers=1)
    assert done.total("samples") == 1 and sum(done.tally("left_out").counts.values()) == 1


def test_unknown_forms(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing"):
        recognise(str(tmp_path / "nothing"))
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"x.csv has none of the forms.*--form \(coco, cvat, "):
        recognise(str(tmp_path / "x.csv"))
    fiftyone(tmp_path / "both")
    (tmp_path / "both/data.yaml").write_text("names: [cup]\n")
    with pytest.raises(InputError, match="may be fiftyone or yolo"):
        recognise(str(tmp_path / "both"))


def test_entities_in_xml_are_refused(tmp_path: Path) -> None:
    """A bomb must not fill the memory."""
    path = FORMS["cvat"](tmp_path)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    path.write_text(path.read_text().replace("?>", f"?>{bomb}").replace("a red cup", "&b;"))
    with pytest.raises(InputError, match="none of the forms"):
        recognise(str(path))
