"""Splits of people's own annotations, and YOLO's folders and lists, which name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prepare.tools import (
    BOX,
    CUP,
    boxes,
    detection,
    imported,
    sized_coco,
    voc_file,
    voc_object,
    write_json,
    write_photo,
    yolo_folder,
)
from xvlm.common.errors import InputError
from xvlm.prepare.importing import import_annotations


@pytest.mark.parametrize("size", [2, 3])
def test_key_points_of_yolo_are_no_outline(size: int, tmp_path: Path) -> None:
    points = " 0.9 0.9 2"[: 8 if size == 2 else None] * 2
    config = f"names: [cup]\nkpt_shape: [2, {size}]\n"
    path = yolo_folder(tmp_path / "in", {"train/a": CUP.strip() + points}, config)
    _, (record,) = imported(path)
    assert boxes(record)["cup"] == pytest.approx(BOX)


def test_lines_of_yolo_that_are_wrong_are_lost_alone(tmp_path: Path) -> None:
    lines = f"{CUP}7 0.1 0.1 0.1 0.1\n0 0.5 0.5 0.2 0.2 0.9 0.9 2 0.5 0.5 2\n0.5 0.1 0.1 0.1 0.1\n"
    lines += "0 a b c d\ninf 1 1 1 1"
    done, (record,) = imported(yolo_folder(tmp_path / "in", {"train/a": lines}, "names: [cup]\n"))
    assert boxes(record)["cup"] == pytest.approx(BOX)
    assert done.tally("left_out").counts == {"wrong type": 5}


SPLITS = "path: .\ntrain: images/train\nval: [images/val, images/more.txt]\ntest: images/none\nnames: [cup]\n"


def test_splits_of_yolo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"train/a": CUP, "val/b": CUP, "more/c": CUP, "old/e": CUP}
    path = yolo_folder(tmp_path / "in", labels, SPLITS)
    (tmp_path / "in/images/more.txt").write_text("./more/c.jpg\n/else/images/val/b.jpg\n./more/d.jpg\n")
    done, records = imported(path)
    assert (
        len(records) == 3 and "has the splits train, val, test, which are merged" in capsys.readouterr().err
    )
    assert done.tally("left_out").counts == {
        "image file missing": 1,
        "folder or list of a split missing": 1,
        "photo with labels is in no split": 1,
    }
    done = import_annotations(str(path), str(tmp_path / "v"), workers=1, sheet=False, split="val")
    assert done.total("samples") == 2 and "merged" not in capsys.readouterr().err
    with pytest.raises(InputError, match="has the splits train, val, test; --split is 'dev'"):
        import_annotations(str(path), str(tmp_path / "w"), workers=1, split="dev")
    with pytest.raises(InputError, match="images/none of the split test is not there"):
        import_annotations(str(path), str(tmp_path / "w"), workers=1, split="test")


def test_lists_of_darknet(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_photo(tmp_path / "in/data", f"{name}.jpg", number)
        (tmp_path / f"in/data/{name}.txt").write_text(CUP)
    (tmp_path / "in/obj.names").write_text("cup\n")
    (tmp_path / "in/train.txt").write_text("data/a.jpg\n")
    (tmp_path / "in/valid.txt").write_text("data/b.jpg\n")
    _, (record,) = imported(tmp_path / "in", split="valid")
    assert record.extra["key"].endswith("b.jpg")


def test_yolo_from_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last folder called images counts, also where one above has that name."""
    folder = tmp_path / "images/in"
    yolo_folder(folder, {"train/a": CUP}, "names: [cup]\n")
    monkeypatch.chdir(folder)
    done = import_annotations("data.yaml", str(tmp_path / "o"), images="images/train", workers=1, sheet=False)
    assert done.total("samples") == 1
    monkeypatch.chdir(folder / "images/train")
    done = import_annotations("../../data.yaml", str(tmp_path / "p"), images=".", workers=1, sheet=False)
    assert done.total("samples") == 1


def test_darknet_below_a_folder_called_images(tmp_path: Path) -> None:
    folder = tmp_path / "images/in"
    write_photo(folder)
    (folder / "a.txt").write_text(CUP)
    (folder / "classes.txt").write_text("cup\n")
    _, (record,) = imported(folder)
    assert boxes(record)["cup"] == pytest.approx(BOX)


def test_splits_of_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    for number, name in enumerate("ab"):
        write_photo(folder / "JPEGImages", f"{name}.jpg", number)
        voc_file(folder / "Annotations", voc_object(), name=name)
    (folder / "ImageSets/Main/train.txt").write_text("a\n")
    (folder / "ImageSets/Main/val.txt").write_text("b\nc\n")
    (folder / "ImageSets/Main/cup_train.txt").write_text("a  1\n")
    done, records = imported(folder)
    assert len(records) == 2 and "has the splits train, val, which" in capsys.readouterr().err
    for number, root in enumerate((folder, folder / "Annotations")):
        done = import_annotations(
            str(root), str(tmp_path / f"v{number}"), workers=1, sheet=False, split="val"
        )
        assert done.total("samples") == 1
        assert done.tally("left_out").counts == {"annotation file missing": 1}


def test_subsets_of_cvat(tmp_path: Path) -> None:
    box = '<box label="cup" xtl="10" ytl="40" xbr="50" ybr="60"/>'
    for number, name in enumerate(("a.jpg", "b.jpg")):
        write_photo(tmp_path, name, number)
    images = "".join(
        f'<image name="{name}" subset="{part}">{box}</image>'
        for name, part in (("a.jpg", "Train"), ("b.jpg", "Val"))
    )
    path = tmp_path / "annotations.xml"
    path.write_text(f"<annotations>{images}</annotations>")
    _, (record,) = imported(path, split="Val")
    assert record.extra["key"] == "b.jpg"


def test_tags_of_fiftyone_are_splits(tmp_path: Path) -> None:
    samples = []
    for number, (name, tag) in enumerate((("a.jpg", "train"), ("b.jpg", "validation"))):
        write_photo(tmp_path / "data", name, number)
        found = {"detections": [detection("cup", [0.05, 0.4, 0.2, 0.2])]}
        samples.append({"filepath": f"/elsewhere/data/{name}", "tags": ["new", tag], "ground_truth": found})
    path = write_json(tmp_path / "samples.json", {"samples": samples})
    _, (record,) = imported(path, split="validation")
    assert record.extra["key"].endswith("b.jpg")


def test_a_form_without_splits(tmp_path: Path) -> None:
    write_photo(tmp_path)
    with pytest.raises(InputError, match="has no splits; --split is 'train'"):
        imported(sized_coco(tmp_path, 200, 100), split="train")
