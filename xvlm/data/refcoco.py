"""RefCOCO, RefCOCO+, RefCOCOg as released: `refs(...).p`, `instances.json`, and detections beside them.

A folder holds the phrases as a pickle (`refs(unc).p`, `refs(google).p`, `refs(umd).p`) and the boxes in
COCO's form.  The pickles were written by Python 2 and are read without running anything that they name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xvlm.data import files
from xvlm.data.coco import is_id, same_id
from xvlm.data.json_text import read_json
from xvlm.data.plain_pickle import read_plain_pickle
from xvlm.data.published import record_from_fields
from xvlm.data.short_repr import short_repr
from xvlm.errors import InputError
from xvlm.records import BadRecord, BoxXYXY, Record

SPEC = "refcoco:FOLDER:SPLIT_BY:SPLIT (refcoco:data/refcoco+:unc:testA), where :SPLIT may be left out"
_PLACE = re.compile(r"(?P<folder>.+?):(?P<split_by>\w+)(?::(?P<split>\w+))?")
_REF = {"ref_id": int, "ann_id": int, "image_id": int, "split": str, "sentences": list}

Detections = Mapping[str, Sequence[BoxXYXY]]
"""Candidate boxes in pixels, by image_id as text."""


class RefCoco:
    """Every sentence is a record: an image, a phrase with its box, and in `extra` what the files say besides
    (`ref_id`, `sent_id`, `image_id`, `split`, `width`, `height`).

    Records of one image stand together.  Images are named by `instances.json`: a ref's own `file_name` ends
    in the number of its annotation.

    Args:
        folder: holds `refs(SPLIT_BY).p` and `instances.json`.
        split_by: who divided it: unc, google or umd.
        split: of the refs; empty: all of them.  "test" means testA and testB too (the released `REFER`).
        image_root: the folder with the images, COCO's train2014; by default `folder`.
    Raises:
        MissingFileError, InputError: a file is missing or not of this form; there is no such split.
    """

    def __init__(self, folder: str, split_by: str, split: str = "", image_root: str | None = None) -> None:
        self.name = f"{folder}:{split_by}" + (f":{split}" if split else "")
        self._root = folder if image_root is None else image_root
        path = files.join(folder, f"refs({split_by}).p")
        refs = read_refs(path)
        splits = sorted({ref["split"] for ref in refs})
        chosen = [ref for ref in refs if not split or split == ref["split"] or _both_tests(split, ref)]
        if not chosen:
            raise InputError(f"split is {split!r}; {path} has {', '.join(splits) or 'no ref at all'}")
        self._images, self._boxes = read_instances(files.join(folder, "instances.json"))
        of_image: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for ref in chosen:
            of_image.setdefault(ref["image_id"], []).extend((ref, said) for said in ref["sentences"])
        self._said = [one for several in of_image.values() for one in several]
        self.shards: Sequence[int] = [len(self._said)]

    def __len__(self) -> int:
        return len(self._said)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a source that has {len(self)}")
        ref, said = self._said[index]
        key = f"{self.name}, ref {ref['ref_id']}, sentence {said.get('sent_id', index)}"
        image, box = self._images.get(ref["image_id"]), self._boxes.get(ref["ann_id"])
        if image is None or box is None:
            missing = f"image {ref['image_id']}" if image is None else f"annotation {ref['ann_id']}"
            raise BadRecord("not in instances.json", key, missing)
        fields: dict[str, Any] = {
            "image": image["file_name"],
            "text": said["sent"],
            "bbox": box,
            **{name: image[name] for name in ("width", "height") if name in image},
            **{name: ref[name] for name in ("ref_id", "image_id", "split")},
            "sent_id": said.get("sent_id"),
        }
        return record_from_fields(fields, key=key, image_root=self._root)


def _both_tests(split: str, ref: Mapping[str, Any]) -> bool:
    return split == "test" and ref["split"] in ("testA", "testB")


def open_refcoco(place: str, image_root: str | None) -> RefCoco:
    """What stands behind `refcoco:`.  Raises InputError for another form than `SPEC`."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InputError(f"expected {SPEC}, found refcoco:{place}")
    return RefCoco(found["folder"], found["split_by"], found["split"] or "", image_root)


def read_refs(path: str) -> list[dict[str, Any]]:
    """The refs of a released file, checked.  Raises FileNotFoundError, or ValueError for another form."""
    refs = read_plain_pickle(path)
    if not isinstance(refs, list):
        raise InputError(f"{path} holds a {type(refs).__name__}, expected a list of refs")
    for number, ref in enumerate(refs):
        if not isinstance(ref, dict):
            raise InputError(f"{path}: ref {number} is a {type(ref).__name__}, expected a dict")
        for name, kind in _REF.items():
            if not isinstance(ref.get(name), kind):
                found = short_repr(ref[name], 40) if name in ref else "missing"
                raise InputError(f"{path}: {name} of ref {number} is {found}, expected {kind.__name__}")
        for said in ref["sentences"]:
            if not isinstance(said, dict) or not isinstance(said.get("sent"), str):
                raise InputError(f"{path}: a sentence of ref {number} has no text under 'sent'")
    return refs


def read_instances(path: str) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
    """COCO's form: images by id, and the (x, y, w, h) of annotations by id.

    Raises FileNotFoundError, or ValueError for another form.
    """
    found = read_json(path)
    try:
        images = {one["id"]: one for one in found["images"]}
        if not all("file_name" in one for one in images.values()):
            raise KeyError("file_name")
        return images, {one["id"]: one["bbox"] for one in found["annotations"]}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not of COCO's form, with images (id, file_name) and annotations (id, bbox): {error}"
        ) from error


def read_detections(path: str | Path) -> Detections:
    """Candidate boxes of images, in any released form.

    These are `{"IMAGE_ID": [[x, y, w, h, ...], ...]}` (the published evaluation's `dets.json`),
    `[{"image_id": ..., "box": [x, y, w, h]}, ...]` (MAttNet's), and the same with `bbox` (COCO's results, and
    its annotations below `annotations`).

    Raises MissingFileError, or InputError for another form.
    """
    found = read_json(str(path))
    if isinstance(found, Mapping) and isinstance(found.get("annotations"), list):
        found = found["annotations"]
    by_image: dict[str, list[BoxXYXY]] = {}
    try:
        if isinstance(found, list):
            for one in found:
                box = one["box"] if "box" in one else one["bbox"]
                by_image.setdefault(image_id_text(one["image_id"]), []).append(box_of(box))
        else:
            for image_id, boxes in found.items():
                by_image.setdefault(image_id_text(image_id), []).extend(box_of(box) for box in boxes)
    except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is no file of detections, {{image_id: [[x, y, w, h], ...]}} or "
            f"[{{image_id, box or bbox}}, ...]: {type(error).__name__} {str(error)[:200]}"
        ) from error
    return by_image


def image_id_text(image_id: Any) -> str:
    """An image's id as `Detections` has it: 123, "123" and "000000123" are the same.

    Raises InputError for what is neither a whole number nor a text.
    """
    if isinstance(image_id, float) and image_id.is_integer():
        image_id = int(image_id)  # tables write whole numbers so
    if not is_id(image_id):
        raise InputError(f"image_id is {short_repr(image_id)}; it may be a whole number or a text")
    return str(same_id(image_id))


def boxes_of_image(detections: Detections, image_id: Any) -> Sequence[BoxXYXY]:
    """The candidate boxes of an image, whose id may be spelled as it likes; none if it has none."""
    try:
        return detections.get(image_id_text(image_id), ())
    except InputError:
        return ()


def box_of(box_xywh: Sequence[Any]) -> BoxXYXY:
    """x, y, w, h, and perhaps more behind them.  Raises InputError or TypeError for what is no box."""
    x, y, w, h = (float(edge) for edge in box_xywh[:4])
    if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise InputError(f"{short_repr(list(box_xywh[:4]))} is no box x, y, w, h")
    return x, y, x + w, y + h
