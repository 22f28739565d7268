"""What annotation tools write beside the usual: rotated photos, rotated shapes, and damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prepare.tools import (
    BOX,
    SIZED,
    boxes,
    cvat_file,
    detection,
    imported,
    region,
    sized_visual_genome,
    task,
    voc_file,
    voc_object,
    write_json,
    write_photo,
)
from xvlm.common.errors import InputError


@pytest.mark.parametrize("write", SIZED)
def test_boxes_of_the_stored_photo_are_rotated_with_it(write: Callable[..., Path], tmp_path: Path) -> None:
    """Orientation 6: a quarter turn clockwise makes the photo upright, 100 x 200."""
    write_photo(tmp_path, orientation=6)
    _, (record,) = imported(write(tmp_path, 200, 100))
    assert boxes(record) == {"cup": (40, 10, 60, 50)}
    assert (record.extra["width"], record.extra["height"]) == (100, 200)


@pytest.mark.parametrize("write", SIZED)
def test_boxes_of_a_photo_that_was_resized_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    write_photo(tmp_path)
    with pytest.raises(InputError, match="declared 400 x 200, the image is 200 x 100"):
        imported(write(tmp_path, 400, 200))


@pytest.mark.parametrize("write", SIZED)
def test_a_size_of_0_is_unknown(write: Callable[..., Path], tmp_path: Path) -> None:
    write_photo(tmp_path)
    _, (record,) = imported(write(tmp_path, 0, 0))
    assert boxes(record) == {"cup": BOX}


def test_a_rotated_ellipse_of_cvat(tmp_path: Path) -> None:
    write_photo(tmp_path)
    ellipse = '<ellipse label="cup" cx="100" cy="50" rx="40" ry="5" rotation="90"/>'
    _, (record,) = imported(cvat_file(tmp_path, ellipse))
    assert boxes(record)["cup"] == pytest.approx((95, 10, 105, 90))


def test_a_mask_of_cvat(tmp_path: Path) -> None:
    write_photo(tmp_path)
    mask = '<mask label="cup" rle="3, 5" left="10" top="40" width="40" height="20"/>'
    _, (record,) = imported(cvat_file(tmp_path, mask))
    assert boxes(record) == {"cup": BOX}


@pytest.mark.parametrize(
    ("name", "kind", "value", "words"),
    [
        ("colour", "select", "red", ("red",)),
        ("colour", "", "dark red", ("dark red",)),
        ("colour", "select", "__undefined__", ()),
        ("caption", "text", "__undefined__", ()),
        ("serial", "text", "red", ()),
        ("serial", "", "AB12", ()),
        ("model", "radio", "A4", ("A4",)),
        ("weight", "select", "12", ()),
        ("full", "checkbox", "true", ("full",)),
    ],
)
def test_which_attributes_of_cvat_are_words(
    name: str, kind: str, value: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    write_photo(tmp_path)
    attribute = f'<attribute name="{name}">{value}</attribute>'
    path = cvat_file(tmp_path, f'<box label="cup" xtl="10" ytl="40" xbr="50" ybr="60">{attribute}</box>')
    spec = f"<attribute><name>{name}</name><input_type>{kind}</input_type></attribute>" if kind else ""
    labels = f"<labels><label><name>cup</name><attributes>{spec}</attributes></label></labels>"
    path.write_text(path.read_text().replace("</version>", f"</version><meta><task>{labels}</task></meta>"))
    _, (record,) = imported(path)
    assert record.concepts[0].attributes == words and record.concepts[0].texts == ("cup",)


def video(folder: Path) -> Path:
    """CVAT for video: a cup in frames 0 and 2, outside in 1."""
    shapes = "".join(
        f'<box frame="{frame}" outside="{int(frame == 1)}" xtl="10" ytl="40" xbr="50" ybr="60"/>'
        for frame in range(3)
    )
    path = folder / "annotations.xml"
    path.write_text(f'<annotations><track id="0" label="cup">{shapes}</track></annotations>')
    return path


def test_tracks_of_a_video(tmp_path: Path) -> None:
    for frame in range(2):
        write_photo(tmp_path, f"images/frame_00000{frame}.png", frame)
    done, (record,) = imported(video(tmp_path))
    assert boxes(record) == {"cup": BOX} and done.tally("left_out").counts == {"image file missing": 1}


def test_tracks_of_a_video_without_frames(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"need its frames as images; .* has no frame_000000.png"):
        imported(video(tmp_path))


def test_regions_of_label_studio_without_ids(tmp_path: Path) -> None:
    write_photo(tmp_path)
    _, (record,) = imported(write_json(tmp_path / "e.json", [task([region("cup", 5), region("roof", 50)])]))
    assert boxes(record) == {"cup": (10, 40, 50, 60), "roof": (100, 40, 140, 60)}


def test_two_annotators_of_label_studio_with_one_id(tmp_path: Path) -> None:
    write_photo(tmp_path)
    one = task([region("cup", 5, id="r")])
    one["annotations"].append({"id": 9, "result": [region("roof", 50, id="r")]})
    _, (record,) = imported(write_json(tmp_path / "e.json", [one]))
    assert boxes(record) == {"cup": (10, 40, 50, 60), "roof": (100, 40, 140, 60)}


def test_a_rotated_ellipse_of_label_studio(tmp_path: Path) -> None:
    write_photo(tmp_path)
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 5, "rotation": 90, "ellipselabels": ["cup"]}
    ellipse = {**region("cup", 0), "type": "ellipselabels", "value": value}
    _, (record,) = imported(write_json(tmp_path / "e.json", [task([ellipse])]))
    assert boxes(record)["cup"] == pytest.approx((95, 10, 105, 90))


def test_what_of_label_studio_is_not_read_is_counted(tmp_path: Path) -> None:
    write_photo(tmp_path)
    text = {"type": "textarea", "id": "t", "value": {"x": 1, "text": ["lost"]}}
    brush = {"type": "brushlabels", "id": "b", "value": {"rle": [1], "brushlabels": ["sky"]}}
    damaged = {**region("cup", 5), "value": {"rectanglelabels": ["cup"]}}
    result = [region("cup", 5), brush, text, damaged, "x", {"type": "choices", "value": {"choices": ["a"]}}]
    done, (record,) = imported(write_json(tmp_path / "e.json", [task(result)]))
    assert boxes(record) == {"cup": BOX}
    assert done.tally("left_out").counts == {
        "shape without area": 1,
        "text of a region without box": 1,
        "entry is not as released": 2,
        "annotation is neither region nor text": 1,
    }


def test_predictions_of_fiftyone_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo(tmp_path / "data")
    points = [[[0.05, 0.4], [0.25, 0.4], [0.25, 0.6]]]
    sample = {
        "filepath": "data/a.jpg",
        "ground_truth": {"detections": [detection("cup", [0.05, 0.4, 0.2, 0.2]), {"label": "x"}]},
        "predictions": {"detections": [detection("dog", [0.5, 0.4, 0.2, 0.2], confidence=0.3)]},
        "lines": {
            "_cls": "Polylines",
            "polylines": [
                {"_cls": "Polyline", "label": "roof", "points": points, "closed": True},
                {"_cls": "Polyline", "label": "road", "points": points, "closed": False},
            ],
        },
    }
    path = write_json(tmp_path / "samples.json", {"samples": [sample]})
    done, (record,) = imported(path)
    assert boxes(record).keys() == {"cup", "roof"} and boxes(record)["roof"] == pytest.approx(BOX)
    assert done.tally("left_out").counts == {
        "prediction, since it has a confidence": 1,
        "annotation without box": 1,
        "shape without area": 1,
    }
    assert "labels in ground_truth, lines, which are read together" in capsys.readouterr().err


def test_objects_of_voc_without_a_box_are_lost_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate("ab"):
        write_photo(tmp_path / "in", f"{name}.jpg", number)
    rotated = "<cx>30</cx><cy>50</cy><w>20</w><h>40</h><angle>1.5707963</angle>"
    rotated = f"<object><name>roof</name><robndbox>{rotated}</robndbox></object>"
    none = "<object><name>dog</name><point><x>1</x></point></object>"
    voc_file(tmp_path / "in", voc_object() + rotated + none + voc_object("cat", ("", 1, 9, 9)))
    voc_file(tmp_path / "in", none, name="b")
    done, (record,) = imported(tmp_path / "in")
    assert boxes(record)["cup"] == BOX and boxes(record)["roof"] == pytest.approx(BOX, abs=0.01)
    assert done.tally("left_out").counts == {
        "annotation without box": 2,
        "wrong type": 1,
        "image without annotation": 1,
    }


def test_one_damaged_file_of_labelme_does_not_stop_the_others(tmp_path: Path) -> None:
    write_photo(tmp_path / "images")
    shape = {"label": "cup", "points": [[10, 40], [50, 60]], "shape_type": "rectangle"}
    write_json(tmp_path / "in/b.json", {"imagePath": "../images/a.jpg", "shapes": [shape]})
    (tmp_path / "in/a.json").write_text('{"imagePath": "../im')
    done, (record,) = imported(tmp_path / "in")
    assert boxes(record) == {"cup": BOX} and done.tally("left_out").counts == {"file is not JSON": 1}


def test_an_incomplete_region_is_lost_alone(tmp_path: Path) -> None:
    write_photo(tmp_path)
    path = sized_visual_genome(tmp_path, 200, 100)
    value = json.loads(path.read_text())
    value[0]["regions"] += [{"phrase": "roof", "x": 1}, None]
    done, (record,) = imported(write_json(path, value))
    assert boxes(record) == {"cup": BOX}
    assert done.tally("left_out").counts == {"entry is not as released": 2}
