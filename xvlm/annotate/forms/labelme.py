"""labelme's form: one JSON file a photo in the folder `labelme`, with the path to the photo in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.json_file import write_json

VERSION = "5.0.1"
"""Version of labelme whose form it is; newer ones read it."""


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the files, which have the names of the photos; the description of a box has its score."""
    paths: set[Path] = set()
    for photo in photos:
        path = (out / "labelme" / photo.safe_name).with_suffix(".json")
        if path in paths:  # by a.jpg, and this is a.png
            path = out / "labelme" / f"{photo.safe_name}.json"
        paths.add(path)
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
        image_path = photo.path if "://" in photo.path else os.path.relpath(photo.path, path.parent)
        image = {"imagePath": image_path, "imageData": None}
        write_json(path, {"version": VERSION, "flags": {}, "shapes": shapes, **image, **size})
