"""COCO's form, `annotations.json`: a phrase is a category, and an annotation has the score of its box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.json_file import write_json


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the file; ids begin at 1, and file names are below the folder that was annotated."""
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for image_id, photo in enumerate(photos, 1):
        images.append({"id": image_id, "file_name": photo.name, "width": photo.width, "height": photo.height})
        for box in photo.boxes:
            width, height = box.box_xywh[2:]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.phrase + 1,
                    "bbox": box.box_xywh,
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": box.score,
                }
            )
    categories = [{"id": number, "name": phrase} for number, phrase in enumerate(phrases, 1)]
    info = {"description": "found by xvlm annotate"}
    write_json(
        out / "annotations.json",
        {"info": info, "images": images, "annotations": annotations, "categories": categories},
    )
