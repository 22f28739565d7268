"""Small files in RefCOCO's released form: phrases pickled by Python 2, boxes in COCO's form, detections."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

from tests.data.make import photo

SIZE = (80, 64)
IMAGES = {58: "COCO_train2014_000000000058.jpg", 72: "COCO_train2014_000000000072.jpg"}
BOXES = {581: [4, 6, 40.5, 30], 582: [30, 20, 44, 40], 721: [1, 2, 30, 30], 722: [40, 8, 20, 50]}
SENTENCES = {
    # ref: (annotation, split, sentences); the refs of one image need not be consecutive
    10: (581, "train", ["red dog", "the left dog"]),
    11: (721, "val", ["round tree"]),
    12: (582, "train", ["blue car"]),
    13: (722, "testA", ["small cat", "cat beside the tree"]),
    14: (581, "testB", ["large red dog"]),
}
SPLITS = ["testA", "testB", "train", "val"]


def refs() -> list[dict[str, Any]]:
    """Return refs as `REFER` reads them; the name of a file ends in the id of the annotation."""
    sent_ids = iter(range(100, 200))
    items = []
    for ref_id, (ann_id, split, texts) in SENTENCES.items():
        image_id = ann_id // 10
        sentences = [
            {"sent": text, "raw": text.title(), "sent_id": next(sent_ids), "tokens": text.split()}
            for text in texts
        ]
        ids = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split, "category_id": 18}
        file_name = IMAGES[image_id].replace(".jpg", f"_{ann_id}.jpg")
        sentence_ids = [sentence["sent_id"] for sentence in sentences]
        items.append({**ids, "file_name": file_name, "sentences": sentences, "sent_ids": sentence_ids})
    return items


def instances() -> dict[str, Any]:
    width, height = SIZE
    return {
        "images": [
            {"id": n, "file_name": name, "width": width, "height": height} for n, name in IMAGES.items()
        ],
        "annotations": [
            {"id": n, "image_id": n // 10, "bbox": box, "category_id": 18, "iscrowd": 0}
            for n, box in BOXES.items()
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }


def detections() -> dict[str, list[list[float]]]:
    """Return for every image its true boxes, each made smaller by a pixel per side, and a wrong box."""
    return {
        str(image): [[70, 50, 9, 9, 0.3]]
        + [[x + 1, y + 1, w - 2, h - 2] for n, (x, y, w, h) in BOXES.items() if n // 10 == image]
        for image in IMAGES
    }


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """A pickler that writes a `str` as Python 2 did: bytes without an encoding."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_text(self, text: str) -> None:
        data = text.encode("latin-1")
        if self.proto:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.STRING + repr(text).encode("latin-1") + b"\n")
        self.memoize(text)

    dispatch[str] = save_text


def python2_pickle(value: Any, protocol: int) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol).dump(value)
    return file.getvalue()


def write_refcoco(folder: Path, images: Path, split_by: str = "unc") -> None:
    """Write the released files to `folder` and the images to `images`."""
    folder.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({split_by}).p").write_bytes(python2_pickle(refs(), 2))
    (folder / "instances.json").write_text(json.dumps(instances()))
    (folder / "dets.json").write_text(json.dumps(detections()))
    for number, name in IMAGES.items():
        photo(*SIZE, number).save(images / name)
