"""labelme's form: one JSON file a photo in the folder `labelme`, with the path to the photo in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.json_file import write_json

VERSION = "5.0.1"
"""Version of labelme whose form it is; newer ones read it."""


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the files, which have the names of the photos; the description of a box has its score."""
    for photo in photos:
        path = (out / "labelme" / photo.name.replace("://", "/")).with_suffix(".json")
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
        image = {"imagePath": photo.path_from(path.parent), "imageData": None}
        write_json(path, {"version": VERSION, "flags": {}, "shapes": shapes, **image, **size})
