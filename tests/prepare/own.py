"""The same annotations in every form that people have: in a.jpg a red cup at (20, 10) to (60, 50), a roof.

The photo is 200 x 100.  A second photo, b.jpg, shows a cup at (5, 5) to (25, 30) of 80 x 60.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.prepare.releases import dump
from tests.tiny import photo

SIZES = {"a.jpg": (200, 100), "b.jpg": (80, 60)}
BOXES = {"a.jpg": {"cup": (20, 10, 60, 50), "roof": (0, 0, 40, 30)}, "b.jpg": {"cup": (5, 5, 25, 30)}}
"""(x0, y0, x1, y1) of each label."""


def write_photos(folder: Path) -> None:
    """Write both photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, size) in enumerate(SIZES.items()):
        photo(*size, number).save(folder / name)


def xywh(box: tuple[int, int, int, int]) -> list[int]:
    """x, y, w, h."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def fractions(name: str, box: tuple[int, int, int, int]) -> list[float]:
    """x, y, w, h as parts of the photo."""
    width, height = SIZES[name]
    x, y, w, h = xywh(box)
    return [x / width, y / height, w / width, h / height]


def coco(root: Path) -> Path:
    """As tools write it: categories from 0, ids as texts, an outline without a box, folders in names."""
    write_photos(root / "photos")
    images = [
        {"id": str(number), "file_name": f"photos/{name}", "width": size[0], "height": size[1]}
        for number, (name, size) in enumerate(SIZES.items())
    ]
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(SIZES):
        for label, box in BOXES[name].items():
            one: dict[str, Any] = {"image_id": str(number), "category_id": 0 if label == "cup" else 1}
            if label == "roof":
                x0, y0, x1, y1 = box
                one |= {"bbox": [], "segmentation": [[x0, y0, x1, y0, (x0 + x1) / 2, y1]]}
            else:
                one |= {"bbox": xywh(box), "segmentation": []}
            annotations.append({"id": len(annotations), "iscrowd": 0, **one})
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "roof"}]
    return dump(
        root / "instances.json", {"images": images, "annotations": annotations, "categories": categories}
    )


def lines(root: Path) -> Path:
    """ODVG."""
    write_photos(root)
    rows = []
    for name, (width, height) in SIZES.items():
        regions = [{"bbox": list(box), "phrase": label} for label, box in BOXES[name].items()]
        grounding = {"caption": "a red cup", "regions": regions}
        rows.append({"filename": name, "width": width, "height": height, "grounding": grounding})
    path = root / "odvg.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelme(root: Path) -> Path:
    """A rectangle from the wrong corner, a polygon, a photo in the file and one beside it."""
    write_photos(root)
    for name, (width, height) in SIZES.items():
        shapes: list[dict[str, Any]] = []
        for label, (x0, y0, x1, y1) in BOXES[name].items():
            points = [[x1, y1], [x0, y0]] if label == "cup" else [[x0, y0], [x1, y0], [(x0 + x1) / 2, y1]]
            kind = "rectangle" if label == "cup" else "polygon"
            one = {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}}
            shapes.append({**one, "description": "a red cup" if label == "cup" else None})
        shapes.append({"label": "dot", "points": [[3, 3]], "shape_type": "point", "flags": {}})
        data = base64.b64encode((root / name).read_bytes()).decode() if name == "b.jpg" else None
        size = {"imageHeight": height, "imageWidth": width}
        value = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"..\\x\\{name}"}
        dump(root / f"{name[0]}.json", {**value, "imageData": data, **size})
        if name == "b.jpg":
            (root / name).unlink()
    return root


def label_studio(root: Path) -> Path:
    """Percentages, a text of a region, a caption, a rotated box, an upload's name, a cancelled annotation."""
    write_photos(root / "images")
    tasks = []
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        result: list[dict[str, Any]] = []
        for label, box in BOXES[name].items():
            x, y, w, h = (100 * side for side in fractions(name, box))
            value: dict[str, Any] = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
            if (
                label == "roof"
            ):  # rotated by 90 degrees around the corner that comes to lie at the upper right
                x0, y0, x1, y1 = box
                size = {"width": 100 * (y1 - y0) / width, "height": 100 * (x1 - x0) / height}
                value = {"x": 100 * x1 / width, "y": 100 * y0 / height, **size, "rotation": 90}
            common = {
                "id": f"r{label}",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
            }
            labels = {"type": "rectanglelabels", "value": {**value, "rectanglelabels": [label]}}
            result.append({**common, **labels, "from_name": "label"})
            if label == "cup":
                text = {"type": "textarea", "value": {**value, "text": ["a red cup"]}}
                result.append({**common, **text, "from_name": "text"})
        result.append({"id": "q", "type": "textarea", "value": {"text": ["a red cup"]}, "from_name": "cap"})
        cancelled = {"id": 1, "was_cancelled": True, "result": result[:1] * 3}
        path = f"/data/upload/3/1a2b3c4d-{name}" if number else f"/data/local-files/?d=deep/{name}"
        done = {"id": 2, "was_cancelled": False, "result": result}
        data = {"image": path, "caption": "a cup"}
        tasks.append({"id": number, "data": data, "annotations": [cancelled, done], "predictions": []})
    return dump(root / "export.json", tasks)


def cvat(root: Path) -> Path:
    """Attributes, a polygon, a rotated box, a photo without shapes."""
    write_photos(root / "images")
    (x0, y0, x1, y1), roof = BOXES["a.jpg"]["cup"], BOXES["a.jpg"]["roof"]
    cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    turned = f'xtl="{cx - h / 2}" ytl="{cy - w / 2}" xbr="{cx + h / 2}" ybr="{cy + w / 2}" rotation="90"'
    attributes = '<attribute name="colour">red</attribute><attribute name="full">false</attribute>'
    text = '<attribute name="caption">a red cup</attribute>'
    a = f'<box label="cup" {turned} z_order="0">{attributes}{text}</box>'
    points = f"{roof[0]},{roof[1]};{roof[2]},{roof[1]};{(roof[0] + roof[2]) / 2},{roof[3]}"
    a += f'<polygon label="roof" points="{points}" z_order="0"></polygon>'
    x0, y0, x1, y1 = BOXES["b.jpg"]["cup"]
    b = f'<box label="cup" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="0"></box>'
    images = "".join(
        f'<image id="0" name="{name}" width="{SIZES[name][0]}" height="{SIZES[name][1]}">{inside}</image>'
        for name, inside in (("a.jpg", a), ("b.jpg", b))
    )
    empty = '<image id="2" name="c.jpg" width="9" height="9"></image>'
    path = root / "annotations.xml"
    path.write_text(f"<?xml version='1.0'?><annotations><version>1.1</version>{images}{empty}</annotations>")
    return path


def yolo(root: Path) -> Path:
    """A box and an outline; a photo without labels."""
    write_photos(root / "images/train")
    photo(50, 50, 9).save(root / "images/train/c.jpg")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nnames: {0: cup, 1: roof}\n")
    (root / "labels/train").mkdir(parents=True)
    for name in SIZES:
        rows = []
        for label, box in BOXES[name].items():
            x, y, w, h = fractions(name, box)
            if label == "roof":
                rows.append(f"1 {x} {y} {x + w} {y} {x + w / 2} {y + h}")
            else:
                rows.append(f"0 {x + w / 2} {y + h / 2} {w} {h}")
        (root / f"labels/train/{name[0]}.txt").write_text("\n".join(rows) + "\n")
    (root / "labels/train/c.txt").write_text("")
    return root


def voc(root: Path) -> Path:
    """Pascal VOC itself: corners from 1; parts in objects; a name without its suffix."""
    write_photos(root / "JPEGImages")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for name in SIZES:
        objects = ""
        for label, (x0, y0, x1, y1) in BOXES[name].items():
            box = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}.0</xmax><ymax>{y1}</ymax>"
            part = "<part><name>handle</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part>"
            objects += f"<object><name>{label}</name><bndbox>{box}</bndbox>{part}</object>"
        file = f"<filename>{name if name == 'a.jpg' else name[0]}</filename>"
        (root / f"Annotations/{name[0]}.xml").write_text(f"<annotation>{file}{objects}</annotation>")
    return root


def fiftyone(root: Path) -> Path:
    """FiftyOneDataset."""
    write_photos(root / "data")
    samples = []
    for name in SIZES:
        found = [
            {"_cls": "Detection", "label": label, "bounding_box": fractions(name, box), "attributes": {}}
            for label, box in BOXES[name].items()
        ]
        truth = {"_cls": "Detections", "detections": found}
        samples.append(
            {"filepath": f"data/{name}", "tags": ["train"], "metadata": None, "ground_truth": truth}
        )
    dump(root / "samples.json", {"samples": samples})
    dump(root / "metadata.json", {"name": "cups"})
    return root


def visual_genome(root: Path) -> Path:
    """Region descriptions with names of images."""
    write_photos(root)
    value = []
    for number, name in enumerate(SIZES):
        regions = [
            {
                "region_id": 1,
                "phrase": label,
                **dict(zip(("x", "y", "width", "height"), xywh(box), strict=True)),
            }
            for label, box in BOXES[name].items()
        ]
        value.append({"id": number, "image": name, "regions": regions})
    return dump(root / "region_descriptions.json", value)


FORMS: dict[str, Callable[[Path], Path]] = {
    "coco": coco,
    "lines": lines,
    "labelme": labelme,
    "label_studio": label_studio,
    "cvat": cvat,
    "yolo": yolo,
    "voc": voc,
    "fiftyone": fiftyone,
    "visual_genome": visual_genome,
}
"""Writers of annotations; a new file in `prepare/forms` is tested as soon as it has one."""
