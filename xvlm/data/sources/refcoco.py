"""RefCOCO, RefCOCO+ and RefCOCOg in their released files, and detections in several forms.

A folder holds the phrases as a pickle (`refs(unc).p`, `refs(google).p`, `refs(umd).p`) and the boxes in
COCO's form (`instances.json`).  The pickles were written by Python 2; no code that they name is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files import storage
from xvlm.data.files.json_parser import parse_value
from xvlm.data.files.plain_pickle import read_plain_pickle
from xvlm.data.sources.coco import is_id
from xvlm.data.sources.record_fields import record_from_fields
from xvlm.data.sources.source import IndexedSource, Opener
from xvlm.records import BadRecord, BoxXYXY, Record, normalize_id

PARTS = re.compile(r"(?P<folder>.+?):(?P<split_by>\w+)(?::(?P<split>\w+))?")
REF = {"ref_id": int, "ann_id": int, "image_id": int, "split": str, "sentences": list}

Detections = Mapping[str, Sequence[BoxXYXY]]
"""Candidate boxes in pixels, by image id (`normalize_image_id`)."""


class RefCoco(IndexedSource):
    """A source with one record per sentence: an image, a phrase with its box, and further fields in `extra`.

    The further fields are `ref_id`, `sent_id`, `image_id`, `split`, `width` and `height`.  Records of one
    image are consecutive.  `instances.json` names the images, since a ref's own `file_name` ends in the id of
    its annotation.

    Args:
        folder: folder with `refs(SPLIT_BY).p` and `instances.json`.
        split_by: author of the split: unc, google or umd.
        split: split of the refs; empty: all.  "test" includes testA and testB (as in the released `REFER`).
        image_root: folder with the images, COCO's train2014; by default `folder`.
    Raises:
        MissingFileError, InputError: a file is missing or has another form, or there is no such split.
    """

    def __init__(self, folder: str, split_by: str, split: str = "", image_root: str | None = None) -> None:
        self._root = folder if image_root is None else image_root
        path = storage.join(folder, f"refs({split_by}).p")
        chosen = refs_of_split(read_refs(path), split, path)
        self._images, self._boxes = read_instances(storage.join(folder, "instances.json"))
        by_image: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for ref in chosen:
            by_image.setdefault(ref["image_id"], []).extend((ref, sentence) for sentence in ref["sentences"])
        self._sentences = [sentence for sentences in by_image.values() for sentence in sentences]
        super().__init__(":".join(filter(None, (folder, split_by, split))), [len(self._sentences)])

    def __getitem__(self, index: int, /) -> Record:
        _, index = self.locate(index)
        ref, sentence = self._sentences[index]
        key = f"{self.name}, ref {ref['ref_id']}, sentence {sentence.get('sent_id', index)}"
        image, box = self._images.get(ref["image_id"]), self._boxes.get(ref["ann_id"])
        if image is None or box is None:
            missing = f"image {ref['image_id']}" if image is None else f"annotation {ref['ann_id']}"
            raise BadRecord("not in instances.json", key, missing)
        fields: dict[str, Any] = {
            "image": image["file_name"],
            "text": sentence["sent"],
            "bbox": box,
            **{name: image[name] for name in ("width", "height") if name in image},
            **{name: ref[name] for name in ("ref_id", "image_id", "split")},
            "sent_id": sentence.get("sent_id"),
        }
        return record_from_fields(fields, key=key, image_root=self._root)


def _open_refcoco(rest: str, options: Mapping[str, str], image_root: str | None = None) -> RefCoco:
    return RefCoco(*split_spec("refcoco", rest, options), image_root)


SCHEMES: dict[str, Opener] = {"refcoco": _open_refcoco}


def split_spec(scheme: str, rest: str, options: Mapping[str, str]) -> tuple[str, str, str]:
    """Return folder, author of the split and split of a specification without its scheme.

    Raises InputError if it has another form, or options.
    """
    if options:
        raise InputError(f"{scheme}: takes no options, found {', '.join(options)}")
    parts = PARTS.fullmatch(rest)
    if parts is None:
        raise InputError(
            f"expected {scheme}:FOLDER:SPLIT_BY:SPLIT ({scheme}:data/{scheme}:unc:testA), where :SPLIT may "
            f"be left out, found {scheme}:{rest}"
        )
    return parts["folder"], parts["split_by"], parts["split"] or ""


def refs_of_split(refs: list[dict[str, Any]], split: str, path: str) -> list[dict[str, Any]]:
    """Return the refs of a split; empty: all.  Raises InputError if there are none."""
    splits = (split, "testA", "testB") if split == "test" else (split,)
    chosen = [ref for ref in refs if not split or ref["split"] in splits]
    if not chosen:
        known = ", ".join(sorted({ref["split"] for ref in refs}))
        raise InputError(f"split is {split!r}; {path} has {known or 'no ref at all'}")
    return chosen


def read_refs(path: str) -> list[dict[str, Any]]:
    """Read the refs of a released file.  Raises MissingFileError, or InputError for another form."""
    return checked_refs(read_plain_pickle(path), path, REF)


def checked_refs(refs: Any, path: str, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the refs of a file, each of which has these fields.  Raises InputError for another form."""
    if not isinstance(refs, list):
        raise InputError(f"{path} holds a {type(refs).__name__}, expected a list of refs")
    for number, ref in enumerate(refs):
        if not isinstance(ref, dict):
            raise InputError(f"{path}: ref {number} is a {type(ref).__name__}, expected a dict")
        for name, kind in fields.items():
            if not isinstance(ref.get(name), kind):
                found = short_repr(ref[name], 40) if name in ref else "missing"
                raise InputError(f"{path}: {name} of ref {number} is {found}, expected {kind.__name__}")
        for sentence in ref["sentences"]:
            if not isinstance(sentence, dict) or not isinstance(sentence.get("sent"), str):
                raise InputError(f"{path}: a sentence of ref {number} has no text under 'sent'")
    return refs


def read_instances(path: str) -> tuple[dict[int, dict[str, Any]], dict[int, Any]]:
    """Return the images by id, and the boxes (x, y, w, h) by annotation id, of a file in COCO's form.

    Raises MissingFileError, or InputError if the file has another form.
    """
    value = read_json_value(path)
    try:
        images = {image["id"]: image for image in value["images"]}
        if not all("file_name" in image for image in images.values()):
            raise KeyError("file_name")
        return images, {annotation["id"]: annotation["bbox"] for annotation in value["annotations"]}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not in COCO's form, with images (id, file_name) and annotations (id, bbox): {error}"
        ) from error


def read_json_value(path: str) -> Any:
    """Read a JSON file, local or remote, with the strict parser of data files."""
    try:
        return parse_value(storage.read_all(path))
    except BadRecord as error:
        raise InputError(f"{path} is not JSON: {error.detail}") from error


def read_detections(path: str | Path) -> Detections:
    """Read candidate boxes of images, in any released form.

    The forms are `{"IMAGE_ID": [[x, y, w, h, ...], ...]}` (`dets.json` of the published evaluation),
    `[{"image_id": ..., "box": [x, y, w, h]}, ...]` (MAttNet), the same with `bbox` (COCO's results), and
    COCO's annotations under `annotations`.

    Raises MissingFileError, or InputError if the file has another form.
    """
    value = read_json_value(str(path))
    if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):
        value = value["annotations"]
    by_image: dict[str, list[BoxXYXY]] = {}
    try:
        if isinstance(value, list):
            for detection in value:
                box = detection["box"] if "box" in detection else detection["bbox"]
                image_id = normalize_image_id(detection["image_id"])
                by_image.setdefault(image_id, []).append(box_from_xywh(box))
        else:
            for image_id, boxes in value.items():
                by_image.setdefault(normalize_image_id(image_id), []).extend(map(box_from_xywh, boxes))
    except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is not a file of detections, {{image_id: [[x, y, w, h], ...]}} or "
            f"[{{image_id, box or bbox}}, ...]: {type(error).__name__} {str(error)[:200]}"
        ) from error
    return by_image


def normalize_image_id(image_id: Any) -> str:
    """Return one spelling for the id of an image: 123, 123.0, "123" and "000000123" are the same.

    Raises InputError if it is neither an integer nor a text.
    """
    if isinstance(image_id, float) and image_id.is_integer():
        image_id = int(image_id)  # table formats write integers in this way
    if not is_id(image_id):
        raise InputError(f"image_id is {short_repr(image_id)}; it must be an integer or a text")
    return normalize_id(image_id)


def boxes_of_image(detections: Detections, image_id: Any) -> Sequence[BoxXYXY]:
    """Return the candidate boxes of an image, or none if there are none or `image_id` is not an id."""
    try:
        return detections.get(normalize_image_id(image_id), ())
    except InputError:
        return ()


def box_from_xywh(box_xywh: Sequence[Any]) -> BoxXYXY:
    """Convert a box x, y, w, h, which further values may follow.  Raises InputError or TypeError."""
    x, y, w, h = (float(number) for number in box_xywh[:4])
    if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
        raise InputError(f"{short_repr(list(box_xywh[:4]))} is not a box x, y, w, h")
    return x, y, x + w, y + h
