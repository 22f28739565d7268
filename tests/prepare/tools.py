"""Files that annotation tools write, small ones, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.make import encoded
from tests.tiny import photo
from xvlm.data.sources.open import open_source
from xvlm.prepare.importing import import_annotations
from xvlm.prepare.prepare import Prepared
from xvlm.records import Record

BOX = (10, 40, 50, 60)
"""x0, y0, x1, y1 of a cup in a.jpg, 200 x 100."""


def imported(path: Path, **options: Any) -> tuple[Prepared, list[Record]]:
    out = path.parent / f"{path.name}_out"
    done = import_annotations(str(path), str(out), workers=1, sheet=False, **options)
    source = open_source(str(out))
    return done, [source[number] for number in range(len(source))]


def boxes(record: Record) -> dict[str, Any]:
    """Box of each concept by its first text."""
    return {one.texts[0]: one.box_xyxy for one in record.concepts}


def write_photo(folder: Path, name: str = "a.jpg", seed: int = 0, orientation: int = 1) -> None:
    """Write a photo of 200 x 100 stored pixels."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encoded(photo(200, 100, seed), orientation=orientation))


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def cvat_file(folder: Path, inside: str, width: int = 200, height: int = 100, name: str = "a.jpg") -> Path:
    """CVAT's XML of one image."""
    path = folder / "annotations.xml"
    image = f'<image id="0" name="{name}" width="{width}" height="{height}">{inside}</image>'
    path.write_text(f"<annotations><version>1.1</version>{image}</annotations>")
    return path


def voc_file(folder: Path, objects: str, size: str = "", name: str = "a") -> Path:
    """Pascal VOC's XML of one image."""
    path = folder / f"{name}.xml"
    path.write_text(f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>")
    return path


def voc_object(label: str = "cup", box: tuple[Any, ...] = BOX) -> str:
    sides = "".join(
        f"<{one}>{n}</{one}>" for one, n in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{label}</name><bndbox>{sides}</bndbox></object>"


def sized_voc(folder: Path, width: int, height: int) -> Path:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return voc_file(folder, voc_object(), size)


def sized_cvat(folder: Path, width: int, height: int) -> Path:
    x0, y0, x1, y1 = BOX
    return cvat_file(folder, f'<box label="cup" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>', width, height)


def sized_visual_genome(folder: Path, width: int, height: int) -> Path:
    region = {"phrase": "cup", "x": 10, "y": 40, "width": 40, "height": 20}
    image = {"id": 1, "image": "a.jpg", "width": width, "height": height, "regions": [region]}
    return write_json(folder / "regions.json", [image])


def sized_coco(folder: Path, width: int, height: int) -> Path:
    image = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 40, 40, 20]}
    categories = [{"id": 1, "name": "cup"}]
    return write_json(
        folder / "coco.json", {"images": [image], "annotations": [annotation], "categories": categories}
    )


SIZED = (sized_voc, sized_cvat, sized_visual_genome, sized_coco)


def detection(label: str, box: list[float], **more: Any) -> dict[str, Any]:
    return {"_cls": "Detection", "label": label, "bounding_box": box, **more}


def yolo_folder(folder: Path, labels: dict[str, str], config: str) -> Path:
    """Photos in images/train, images/val, ... by their name without suffix, and their labels."""
    for number, (name, text) in enumerate(labels.items()):
        write_photo(folder, f"images/{name}.jpg", number)
        path = folder / f"labels/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "data.yaml").write_text(config)
    return folder / "data.yaml"


CUP = "0 0.15 0.5 0.2 0.2\n"


def task(result: list[Any], annotations: int = 1, name: str = "a.jpg") -> dict[str, Any]:
    """A task of Label Studio."""
    done = [{"id": number, "result": result} for number in range(annotations)]
    return {"id": 1, "data": {"image": name}, "annotations": done}


def region(label: str, x: float, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": 40, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "original_width": 200, "original_height": 100, "value": value, **more}
