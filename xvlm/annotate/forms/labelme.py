"""labelme's form: one JSON file a photo in the folder `labelme`, with the path to the photo in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto, path_from
from xvlm.common.json_file import write_json

VERSION = "5.0.1"  # of labelme whose form it is; newer ones read it


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the files, named after the photos, with scores as descriptions; those that are there stay."""
    paths: set[Path] = set()
    for photo in photos:
        path = (out / "labelme" / photo.safe_name).with_suffix(".json")
        while path in paths:  # by a.jpg, and this is a.png
            path = path.with_name(f"{path.stem}{Path(photo.name).suffix or '_'}.json")
        paths.add(path)
        if path.is_file():  # a person may have corrected it
            continue
        shapes: list[dict[str, Any]] = [
            {
                "label": phrases[box.phrase],
                "points": [list(box.box_xyxy[:2]), list(box.box_xyxy[2:])],
                "group_id": None,
                "description": f"score {box.score:.3f}",
                "shape_type": "rectangle",
                "flags": {},
            }
            for box in photo.boxes
        ]
        size = {"imageHeight": photo.height, "imageWidth": photo.width}
        image = {"imagePath": path_from(photo.path, path.parent), "imageData": None}
        write_json(path, {"version": VERSION, "flags": {}, "shapes": shapes, **image, **size})
