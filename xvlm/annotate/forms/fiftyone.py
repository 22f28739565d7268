"""FiftyOne's form: `labels.json` of a FiftyOneImageDetectionDataset; `data_path` is the photos' folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.common.json_file import write_json


def write(out: Path, photos: Sequence[AnnotatedPhoto], phrases: Sequence[str]) -> None:
    """Write the file: boxes are x, y, width, height as parts of the photo, labels numbers of phrases."""
    labels: dict[str, list[dict[str, Any]]] = {}
    for photo in photos:
        whole = (photo.width, photo.height, photo.width, photo.height)
        labels[str(Path(photo.name).with_suffix(""))] = [
            {
                "label": box.phrase,
                "bounding_box": [round(x / y, 6) for x, y in zip(box.box_xywh, whole, strict=True)],
                "confidence": box.score,
            }
            for box in photo.boxes
        ]
    write_json(out / "labels.json", {"classes": list(phrases), "labels": labels})
