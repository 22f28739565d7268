"""Small files in gRefCOCO's released form: phrases with several boxes, one or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.refcoco_data import instances


def refs() -> list[dict[str, Any]]:
    common = {"category_id": [18], "sent_ids": [1], "file_name": "x.jpg"}

    def ref(number: int, image: int, boxes: list[int], split: str, *texts: str) -> dict[str, Any]:
        sentences = [{"sent": text, "sent_id": place, "tokens": []} for place, text in enumerate(texts)]
        none = {"no_target": boxes == [-1]}
        own = {"ref_id": number, "image_id": image, "ann_id": boxes, "split": split, "sentences": sentences}
        return {**common, **own, **none}

    return [
        ref(1, 58, [581, 582], "val", "both dogs", "two dogs"),
        ref(2, 72, [721], "val", "the tree"),
        ref(3, 58, [-1], "val", "a purple cow"),
        ref(4, 58, [582], "train", "the car"),
        ref(5, 72, [999], "testA", "nothing here"),
        ref(6, 72, [722, 999], "testB", "cats"),
        ref(7, 72, [722], "testB", "a cat"),
    ]


def write_grefcoco(folder: Path) -> None:
    """Write phrases and boxes; the images are those of RefCOCO's small files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grefs(unc).json").write_text(json.dumps(refs()))
    (folder / "instances.json").write_text(json.dumps(instances()))
