"""JSON objects in the published shapes -> records.

The shape is told by the fields (README and data classes of the published code):

    elems              region lines: elems of caption, attributes, bb (x, y, w, h); perhaps an image caption
    question, answer   question answering; both go to `extra`
    sentence, images   NLVR2: the first image is the record's, the second one `right` in `extra`
    sentence, image    visual entailment as ALBEF has it, with label; SNLI-VE's own lines, with sentence2,
                       gold_label and Flickr30K_ID, become the same.  Both name images without `.jpg`
    questions          several objects with question, answer about one image (our own form); in `extra`
    statements         several objects with sentence, label about one or two images (our own form); in `extra`
    text               grounding: text, perhaps bbox (x, y, w, h), ref_id, width, height
    caption            image-text lines, retrieval and captioning lists
    image              alone, perhaps with image_id, width, height: an image of a test set, to be described

The image is a path (`image_rpath`, `image`) or base64 (`binary`).  Fields that are not used here
(`image_id`, `ref_id`, `width`, ...) stay in `extra` under their names.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xvlm.data import files
from xvlm.records import BadRecord, BoxXYXY, Concept, ImageData, Record

Fields = Mapping[str, Any]
_IMAGE_KEYS = {"binary": False, "image_rpath": True, "image": True}  # -> whether it is a path
_SNLI_VE = {"Flickr30K_ID": "image", "sentence2": "sentence", "gold_label": "label"}  # -> usual names
_ABOUT_IMAGES = {*_IMAGE_KEYS, "image_id", "width", "height"}
_TEXT_FIELDS = ("elems", "question", "sentence", "questions", "statements", "text")


@dataclass(frozen=True)
class Keys:
    """Names of fields, where a file does not use the usual ones (options of the published configs).

    Attributes:
        image_key: the field with the image; `None`: the first of `binary`, `image_rpath`, `image`.
        is_image_rpath: whether that field is a path (else base64); `None`: by its usual meaning, and
            a path under any other name.
        caption_key: the field with the caption or captions of the image.
    """

    image_key: str | None = None
    is_image_rpath: bool | None = None
    caption_key: str = "caption"


USUAL_KEYS = Keys()


def record_from_fields(
    fields: Any, *, key: str, image_root: str = "", keys: Keys = USUAL_KEYS, image: ImageData | None = None
) -> Record:
    """One parsed JSON object as a record.

    Args:
        key: becomes the record's key.
        image_root: folder or URL that image paths start from.
        image: the image, where it comes from elsewhere (a tar member); fields then need not name one.
    Raises:
        BadRecord: "not a JSON object", "unknown fields" (no known shape), "wrong type", "image is not
            base64".  Values that only spoil one concept (an empty text, a box that is NaN or outside)
            pass here and are sorted out by `usable_concepts`.
    """
    if not isinstance(fields, Mapping):
        raise BadRecord("not a JSON object", key, f"found {type(fields).__name__}")
    fields = _entailment(fields)
    used = {"elems", "text", "bbox", keys.caption_key}
    if image is None:
        image, image_keys = _image(fields, key, image_root, keys)
        used |= image_keys
    else:
        used |= set(_IMAGE_KEYS)
    concepts = _concepts(fields, key, keys)
    extra = {name: value for name, value in fields.items() if name not in used}
    if len(paths := fields.get("images", ())) > 1:
        extra["right"] = files.join(image_root, paths[1])
    return Record(key, image, tuple(concepts), extra)


def _entailment(fields: Fields) -> Fields:
    """The fields under their usual names, with the whole name of the image file."""
    if "Flickr30K_ID" in fields:
        # `sentence1` stays in `extra`: it is one caption of the image, which the image replaces as premise.
        fields = {_SNLI_VE.get(name, name): value for name, value in fields.items()}
    image = fields.get("image")
    if "sentence" in fields and isinstance(image, str) and not os.path.splitext(image)[1]:
        return {**fields, "image": f"{image}.jpg"}
    return fields


def _image(fields: Fields, key: str, image_root: str, keys: Keys) -> tuple[ImageData, set[str]]:
    """The image, and the fields that are spent on it."""
    if keys.image_key is None and "images" in fields:
        paths = _strings(fields["images"], "images", key)
        if not paths:
            raise BadRecord("wrong type", key, "images is empty")
        return files.join(image_root, paths[0]), set()
    names = [keys.image_key] if keys.image_key is not None else list(_IMAGE_KEYS)
    name = next((name for name in names if name in fields), None)
    if name is None:
        raise _unknown(fields, key, "image", names)
    value = fields[name]
    if not isinstance(value, str):
        raise BadRecord("wrong type", key, f"{name} is {_short(value)}, expected a string")
    is_path = _IMAGE_KEYS.get(name, True) if keys.is_image_rpath is None else keys.is_image_rpath
    spent = {name} | set(_IMAGE_KEYS)
    return (files.join(image_root, value) if is_path else _from_base64(value, name, key)), spent


def _from_base64(text: str, name: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRecord("image is not base64", key, f"{name}: {error}") from error


def _concepts(fields: Fields, key: str, keys: Keys) -> list[Concept]:
    shape = next((name for name in _TEXT_FIELDS if name in fields), keys.caption_key)
    if fields and set(fields) <= _ABOUT_IMAGES:
        return []
    if shape not in fields:
        raise _unknown(fields, key, "text", [keys.caption_key, *_TEXT_FIELDS])
    if shape in ("question", "sentence", "questions", "statements"):
        return []
    if shape == "text":
        box = _box(fields["bbox"], "bbox", key) if "bbox" in fields else None
        return [Concept(_strings(fields["text"], "text", key), box)]
    captions = []
    if keys.caption_key in fields:
        captions = [Concept(_strings(fields[keys.caption_key], keys.caption_key, key))]
    return captions + _regions(fields.get("elems", []), key)


def _regions(elems: Any, key: str) -> list[Concept]:
    if not isinstance(elems, list) or not all(isinstance(elem, Mapping) for elem in elems):
        raise BadRecord("wrong type", key, f"elems is {_short(elems)}, expected a list of objects")
    return [_region(elem, f"elems[{index}]", key) for index, elem in enumerate(elems)]


def _region(elem: Fields, name: str, key: str) -> Concept:
    missing = [field for field in ("caption", "bb") if field not in elem]
    if missing:
        found = f"{name} has {sorted(elem)}; it needs caption and bb, and may have attributes"
        raise BadRecord("unknown fields", key, found)
    attributes = _strings(elem.get("attributes", []), f"{name}.attributes", key)
    return Concept(
        _strings(elem["caption"], f"{name}.caption", key),
        _box(elem["bb"], f"{name}.bb", key),
        tuple(word for word in attributes if word.strip()),
    )


def _strings(value: Any, name: str, key: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(item, str) for item in values):
        raise BadRecord("wrong type", key, f"{name} is {_short(value)}, expected a string or a list of them")
    return tuple(values)


def _box(value: Any, name: str, key: str) -> BoxXYXY:
    numbers = isinstance(value, (list, tuple)) and all(
        isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in value
    )
    if not numbers or len(value) != 4:
        raise BadRecord("wrong type", key, f"{name} is {_short(value)}, expected four numbers x, y, w, h")
    try:
        x, y, w, h = map(float, value)
    except OverflowError as error:
        raise BadRecord("wrong type", key, f"{name}: {error}") from error
    return x, y, x + w, y + h


def _unknown(fields: Fields, key: str, what: str, allowed: list[str]) -> BadRecord:
    found = f"no field for the {what}: found {sorted(map(str, fields))}, looked for {allowed}"
    return BadRecord("unknown fields", key, found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
