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
    caption            image-text lines, retrieval and captioning lists; without it `desc`, as some files have
    image              alone, perhaps with image_id, width, height: an image of a test set, to be described

The image is a path (`image_rpath`, `image`) or base64 (`binary`).  Fields that are not used here
(`image_id`, `ref_id`, `width`, ...) stay in `extra` under their names.

A list of boxes in the place of one is as many concepts with the same texts.  A text, a box or an element that
cannot be used does not spoil its neighbours: it stands in the record's `bad`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from xvlm.data import files
from xvlm.data.json_text import INVALID_UNICODE, check_unicode, is_unicode
from xvlm.data.short_repr import short_repr
from xvlm.records import NULL, BadRecord, BoxXYXY, Concept, ImageData, Record

Fields = Mapping[str, Any]
_IMAGE_KEYS = {"binary": False, "image_rpath": True, "image": True}  # -> whether it is a path
_SNLI_VE = {"Flickr30K_ID": "image", "sentence2": "sentence", "gold_label": "label"}  # -> usual names
_ABOUT_IMAGES = {*_IMAGE_KEYS, "image_id", "width", "height"}
_OWN_CHECKS = ("questions", "statements")  # lists whose elements are checked one by one where they are used
_TEXT_FIELDS = ("elems", "question", "sentence", "questions", "statements", "text")


@dataclass(frozen=True)
class Keys:
    """Names of fields, where a file does not use the usual ones (options of the published configs).

    Attributes:
        image_key: the field with the image; `None`: the first of `binary`, `image_rpath`, `image`.
        is_image_rpath: whether that field is a path (else base64); `None`: by its usual meaning, and
            a path under any other name.
        caption_key: the field with the caption or captions of the image.
        tokenized: texts are word pieces with spaces between them (the published 16M region files); they are
            put together again.
    """

    image_key: str | None = None
    is_image_rpath: bool | None = None
    caption_key: str = "caption"
    tokenized: bool = False


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
            base64", "text is not valid Unicode"; for one concept only where no other is left.  Values that
            only spoil one concept (an empty text, a box that is NaN or outside) pass here and are sorted out
            by `usable_concepts`.
    """
    if not isinstance(fields, Mapping):
        raise BadRecord("not a JSON object", key, f"found {type(fields).__name__}")
    fields = _entailment(fields)
    keys = _with_caption_key(fields, keys)
    used = {"elems", "text", "bbox", keys.caption_key}
    if image is None:
        image, image_keys = _image(fields, key, image_root, keys)
        used |= image_keys
    else:
        used |= set(_IMAGE_KEYS)
    bad: list[BadRecord] = []
    concepts = _concepts(fields, key, keys, bad)
    if bad and not concepts:
        raise bad[0]
    extra = {name: value for name, value in fields.items() if name not in used}
    check_unicode([(name, value) for name, value in extra.items() if name not in _OWN_CHECKS], key)
    if len(paths := fields.get("images", ())) > 1:
        extra["right"] = files.join(image_root, paths[1])
    return Record(key, image, tuple(concepts), extra, tuple(bad))


def _with_caption_key(fields: Fields, keys: Keys) -> Keys:
    """`desc` in the place of `caption`, as some of the published files have it."""
    known = (keys.caption_key, *_TEXT_FIELDS)
    if (
        keys.caption_key == USUAL_KEYS.caption_key
        and "desc" in fields
        and not any(n in fields for n in known)
    ):
        return replace(keys, caption_key="desc")
    return keys


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
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None and (name := next((name for name in names if name in fields), None)) is None:
        raise _unknown(fields, key, "image", names)
    value = fields[name]
    if not isinstance(value, str):
        raise BadRecord("wrong type", key, f"{name} is {short_repr(value)}, expected a string")
    check_unicode(value, key)
    is_path = _IMAGE_KEYS.get(name, True) if keys.is_image_rpath is None else keys.is_image_rpath
    spent = {name} | set(_IMAGE_KEYS)
    return (files.join(image_root, value) if is_path else _from_base64(value, name, key)), spent


def _from_base64(text: str, name: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRecord("image is not base64", key, f"{name}: {error}") from error


def _concepts(fields: Fields, key: str, keys: Keys, bad: list[BadRecord]) -> list[Concept]:
    """The concepts; what cannot be used of them goes to `bad`."""
    shape = next((name for name in _TEXT_FIELDS if name in fields), keys.caption_key)
    if fields and set(fields) <= _ABOUT_IMAGES:
        return []
    if shape not in fields:
        raise _unknown(fields, key, "text", [keys.caption_key, *_TEXT_FIELDS])
    if shape in ("question", "sentence", "questions", "statements"):
        return []
    if shape == "text":
        return _concept(fields, ("text", "bbox"), "", key, keys, bad)
    captions = []
    if keys.caption_key in fields:
        captions = _concept(fields, (keys.caption_key, ""), "", key, keys, bad)
    return captions + _regions(fields.get("elems", []), key, keys, bad)


def _regions(elems: Any, key: str, keys: Keys, bad: list[BadRecord]) -> list[Concept]:
    if not isinstance(elems, list):
        raise BadRecord("wrong type", key, f"elems is {short_repr(elems)}, expected a list of objects")
    found = []
    for index, elem in enumerate(elems):
        name = f"elems[{index}]"
        if not isinstance(elem, Mapping):
            bad.append(BadRecord("wrong type", key, f"{name} is {short_repr(elem)}, expected an object"))
        elif "caption" not in elem or "bb" not in elem:
            known = f"{name} has {_names(elem)}; it needs caption and bb, and may have attributes"
            bad.append(BadRecord("unknown fields", key, known))
        else:
            found += _concept(elem, ("caption", "bb"), f"{name}.", key, keys, bad)
    return found


def _concept(
    fields: Fields, names: tuple[str, str], where: str, key: str, keys: Keys, bad: list[BadRecord]
) -> list[Concept]:
    """A concept for each box under the second name, or one without a box; the texts stand under the first."""
    text_name, box_name = names
    try:
        texts = _texts(fields[text_name], f"{where}{text_name}", key, keys, bad)
        words = _strings(fields.get("attributes") or [], f"{where}attributes", key) if where else ()
    except BadRecord as error:
        bad.append(error)
        return []
    attributes = tuple(word for word in words if word.strip())
    if box_name not in fields:
        return [Concept(texts, None, attributes)]
    boxes = _boxes(fields[box_name], f"{where}{box_name}", key, bad)
    return [Concept(texts, box, attributes) for box in boxes]


def _texts(value: Any, name: str, key: str, keys: Keys, bad: list[BadRecord]) -> tuple[str, ...]:
    """Texts of one concept; those that are none go to `bad`.  Raises BadRecord if not one is left."""
    several = value if isinstance(value, list | tuple) else [value]
    texts, unusable = [], []
    for place, item in enumerate(several):
        at = name if several is not value else f"{name}[{place}]"
        text = _joined(item) if keys.tokenized else item
        if not isinstance(text, str):
            found = f"{at} is {short_repr(item)}, expected a string or a list of them"
            unusable.append(BadRecord(NULL if item is None else "wrong type", key, found))
        elif not is_unicode(text):
            unusable.append(BadRecord(INVALID_UNICODE, key, f"{at} is {short_repr(text)}"))
        else:
            texts.append(text)
    if unusable and not texts:
        raise unusable[0]
    bad += unusable
    return tuple(texts)


def _joined(text: Any) -> Any:
    """Word pieces as the text that they came from: `##s` (BERT) ends a word, `Ġdog` (RoBERTa) begins one."""
    if isinstance(text, list | tuple) and all(isinstance(piece, str) for piece in text):
        text = " ".join(text)
    if not isinstance(text, str):
        return text
    return text.replace(" ", "").replace("Ġ", " ").strip() if "Ġ" in text else text.replace(" ##", "")


def _strings(value: Any, name: str, key: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        found = f"{name} is {short_repr(value)}, expected a string or a list of them"
        raise BadRecord("wrong type", key, found)
    check_unicode(values, key)
    return tuple(values)


def _boxes(value: Any, name: str, key: str, bad: list[BadRecord]) -> list[BoxXYXY]:
    """One box, or each different one of a list of them; what is no box goes to `bad`."""
    several = isinstance(value, list | tuple) and any(isinstance(one, list | tuple) for one in value)
    found: dict[BoxXYXY, None] = {}
    for place, one in enumerate(value if several else [value]):
        try:
            found[_box(one, f"{name}[{place}]" if several else name, key)] = None
        except BadRecord as error:
            bad.append(error)
    return list(found)


def _box(value: Any, name: str, key: str) -> BoxXYXY:
    numbers = isinstance(value, list | tuple) and all(
        isinstance(edge, int | float) and not isinstance(edge, bool) for edge in value
    )
    if not numbers or len(value) != 4:
        found = f"{name} is {short_repr(value)}, expected four numbers x, y, w, h"
        raise BadRecord(NULL if value is None else "wrong type", key, found)
    try:
        x, y, w, h = map(float, value)
    except OverflowError as error:
        raise BadRecord("wrong type", key, f"{name}: {error}") from error
    return x, y, x + w, y + h


def _unknown(fields: Fields, key: str, what: str, allowed: list[str]) -> BadRecord:
    found = f"no field for the {what}: found {_names(fields)}, looked for {allowed}"
    return BadRecord("unknown fields", key, found)


def _names(fields: Fields) -> str:
    """Names of fields, sorted; of very many the first ones."""
    names = sorted(str(name)[:40] for name in islice(fields, 20))
    return f"{names}" + (f" and {len(fields) - 20} more" if len(fields) > 20 else "")
