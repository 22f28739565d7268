"""Images that annotations name by paths of another machine are found, and never mixed up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.prepare.tools import (
    BOX,
    CUP,
    boxes,
    imported,
    region,
    sized_coco,
    task,
    write_json,
    write_photo,
    yolo_folder,
)
from xvlm.common.errors import InputError
from xvlm.prepare.places import ImageFinder


def test_names_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    path = yolo_folder(tmp_path / "in", {"train/a": CUP}, "names: [cup]\n")
    photo_file = tmp_path / "in/images/train/a.jpg"
    Path(os.fsdecode(bytes(photo_file.parent) + b"/\xff.jpg")).write_bytes(photo_file.read_bytes())
    done, _ = imported(path)
    assert done.total("samples") == 1 and done.tally("left_out").counts == {"file name is not UTF-8": 1}


def test_files_of_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    """The folder of cam1 alone is named; cam2's photo of the same short name is another one."""
    box = '<box label="cup" xtl="10" ytl="40" xbr="50" ybr="60"/>'
    write_photo(tmp_path, "images/cam1/0001.jpg")
    path = tmp_path / "annotations.xml"
    names = ("cam1/0001.jpg", "cam2/0001.jpg")
    images = "".join(f'<image name="{name}">{box}</image>' for name in names)
    path.write_text(f"<annotations>{images}</annotations>")
    done, (record,) = imported(path, images=str(tmp_path / "images/cam1"))
    assert record.extra["key"] == "cam1/0001.jpg"
    assert done.tally("left_out").counts == {"one file for several images": 1}


@pytest.mark.parametrize(
    "name", ["C:\\data\\imgs\\a.jpg", "/elsewhere/imgs/a.jpg", "../in/a.jpg", "imgs\\a.jpg", "./a.jpg"]
)
def test_coco_with_paths_of_another_machine(name: str, tmp_path: Path) -> None:
    write_photo(tmp_path / "in")
    (tmp_path / "annotations").mkdir()
    path = sized_coco(tmp_path / "annotations", 200, 100)
    path.write_text(json.dumps(json.loads(path.read_text().replace('"a.jpg"', json.dumps(name)))))
    _, (record,) = imported(path, images=str(tmp_path / "in"))
    assert boxes(record) == {"cup": BOX}


def test_the_longest_end_of_a_path_counts(tmp_path: Path) -> None:
    write_photo(tmp_path, "flat/0001.jpg", 1)
    write_photo(tmp_path, "flat/images/cam2/0001.jpg", 2)
    (tmp_path / "flat/other").mkdir()
    finder = ImageFinder([], str(tmp_path / "flat"), str(tmp_path / "flat/images"))
    assert finder.find("k", "/x/cam2/0001.jpg") == str(tmp_path / "flat/images/cam2/0001.jpg")


def test_uploads_of_label_studio_with_one_name(tmp_path: Path) -> None:
    """Two photos called a.jpg were uploaded; which one is there cannot be known."""
    write_photo(tmp_path / "images")
    names = ("/data/upload/1/1a2b3c4d-a.jpg", "/data/upload/1/5e6f7a8b-a.jpg")
    path = write_json(tmp_path / "e.json", [task([region("cup", 5)], name=name) for name in names])
    with pytest.raises(InputError, match="one file for several images"):
        imported(path)
