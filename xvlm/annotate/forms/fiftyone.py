"""FiftyOne's form: `labels.json` of a FiftyOneImageDetectionDataset; `data_path` is the photos' folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.errors import InputError
from xvlm.common.json_file import write_json


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the file: boxes are x, y, width, height as parts of the photo, labels numbers of phrases.

    Raises InputError if two photos differ in their extensions alone, which the form does not have.
    """
    labels: dict[str, list[dict[str, Any]]] = {}
    for photo in photos:
        whole = (photo.width, photo.height, photo.width, photo.height)
        key = str(Path(photo.name).with_suffix(""))
        if key in labels:
            raise InputError(f"two photos are {key}.*, and FiftyOne's form has names without extensions")
        labels[key] = [
            {
                "label": box.phrase,
                "bounding_box": [round(x / y, 6) for x, y in zip(box.box_xywh, whole, strict=True)],
                "confidence": box.score,
            }
            for box in photo.boxes
        ]
    write_json(out / "labels.json", {"classes": list(phrases), "labels": labels})
