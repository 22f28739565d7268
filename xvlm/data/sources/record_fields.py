"""Convert JSON objects in the published forms to records.

The names of the fields decide the form (README and data classes of the published code):

    elems              region lines: elems of caption, attributes, bb (x, y, w, h); optionally a caption
    question, answer   question answering; both go to `extra`
    sentence, images   NLVR2: the first image is the record's, the second one is `right` in `extra`
    sentence, image    visual entailment in ALBEF's form, with label; SNLI-VE's own lines, with sentence2,
                       gold_label and Flickr30K_ID, are converted to it.  Both name images without `.jpg`
    questions          several objects with question, answer about one image (our own form); in `extra`
    statements         several objects with sentence, label about one or two images (our own form); in `extra`
    text               grounding: text, optionally bbox (x, y, w, h), ref_id, width, height; with no_target,
                       or an empty list as bbox (or as bb of an elem), it describes nothing in the image
    absent             texts that describe nothing in the image, beside any of the others (our own form)
    filename, detection or grounding   a line of ODVG, see `odvg.py`
    caption            image-text lines, retrieval and captioning lists; some files have `desc` instead
    image              alone, optionally with image_id, width, height: an image of a test set to be captioned

The image is a path (`image_rpath`, `image`) or base64 (`binary`).  Fields that are not used here
(`image_id`, `ref_id`, `width`, ...) go to `extra` under their names.

A list of boxes in place of one box gives one concept per box, all with the same texts.  A text, a box or an
element that cannot be used does not invalidate the others: it goes to the record's `bad`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from xvlm.common.short_repr import short_repr
from xvlm.data.files import storage
from xvlm.data.files.json_parser import INVALID_UNICODE, check_unicode, is_unicode
from xvlm.data.sources.odvg import is_odvg, odvg_fields
from xvlm.records import NULL_VALUE, BadRecord, BoxXYXY, Concept, ImageData, Record

Fields = Mapping[str, Any]
_IMAGE_FIELDS = {"binary": False, "image_rpath": True, "image": True}  # -> whether it is a path
_SNLI_VE = {"Flickr30K_ID": "image", "sentence2": "sentence", "gold_label": "label"}  # -> usual names
_TEST_IMAGE_FIELDS = {*_IMAGE_FIELDS, "image_id", "width", "height"}
_CHECKED_LATER = ("questions", "statements")  # `task_fields` checks their elements one by one
TEXT_FIELDS = ("elems", "question", "sentence", "questions", "statements", "text")
_ABSENT = "absent"


@dataclass(frozen=True)
class FieldNames:
    """Names of the fields in a file that does not use the usual ones (options of the published configs).

    Attributes:
        image_key: name of the field with the image; `None`: the first of `binary`, `image_rpath`, `image`.
        is_image_rpath: whether that field is a path (else base64); `None`: by its usual meaning, and
            a path under any other name.
        caption_key: name of the field with the caption or captions of the image.
        tokenized: whether texts are word pieces with spaces between them (the published 16M region files),
            which are joined again.
    """

    image_key: str | None = None
    is_image_rpath: bool | None = None
    caption_key: str = "caption"
    tokenized: bool = False


DEFAULT_FIELD_NAMES = FieldNames()


def record_from_fields(
    fields: Any,
    *,
    key: str,
    image_root: str = "",
    field_names: FieldNames = DEFAULT_FIELD_NAMES,
    image: ImageData | None = None,
) -> Record:
    """Convert one parsed JSON object to a record.

    Args:
        key: key of the record.
        image_root: folder or URL that image paths are relative to.
        field_names: names of the fields.
        image: the image, if it is stored elsewhere (a tar member); the fields then need not name one.
    Raises:
        BadRecord: "not a JSON object", "unknown fields" (no known form), "wrong type", "image is not
            base64", "text is not valid Unicode".  A fault in one concept is raised only if no other is left.
            Values that invalidate only one concept (an empty text, a box that is NaN or outside) are accepted
            here and found by `usable_concepts`.
    """
    if not isinstance(fields, Mapping):
        raise BadRecord("not a JSON object", key, f"found {type(fields).__name__}")
    fields = odvg_fields(fields) if is_odvg(fields) else _normalize_entailment(fields)
    reader = _Reader(key, image_root, _with_desc(fields, field_names))
    used = {"elems", "text", "bbox", _ABSENT, "no_target", reader.names.caption_key}
    if image is None:
        image, image_fields = reader.image(fields)
        used |= image_fields
    else:
        used |= set(_IMAGE_FIELDS)
    concepts = reader.concepts(fields)
    if _ABSENT in fields:
        reader.add_absent(fields, _ABSENT)
    if reader.bad and not (concepts or reader.absent):
        raise reader.bad[0]
    extra = {name: value for name, value in fields.items() if name not in used}
    check_unicode([(name, value) for name, value in extra.items() if name not in _CHECKED_LATER], key)
    if len(paths := fields.get("images", ())) > 1:
        extra["right"] = storage.join(image_root, paths[1])
    absent = tuple(dict.fromkeys(reader.absent))
    return Record(key, image, tuple(concepts), extra, tuple(reader.bad), absent)


def _with_desc(fields: Fields, names: FieldNames) -> FieldNames:
    """Take the captions from `desc` if there is no other text, as in some of the published files."""
    has_text = any(name in fields for name in (names.caption_key, *TEXT_FIELDS))
    if names.caption_key == DEFAULT_FIELD_NAMES.caption_key and "desc" in fields and not has_text:
        return replace(names, caption_key="desc")
    return names


def _normalize_entailment(fields: Fields) -> Fields:
    """Return entailment fields under their usual names, with `.jpg` added to the image."""
    if "Flickr30K_ID" in fields:
        # `sentence1` stays in `extra`: it is a caption of the image, which replaces it as the premise.
        fields = {_SNLI_VE.get(name, name): value for name, value in fields.items()}
    image = fields.get("image")
    if "sentence" in fields and isinstance(image, str) and not os.path.splitext(image)[1]:
        return {**fields, "image": f"{image}.jpg"}
    return fields


@dataclass
class _Reader:
    """Reads the image and the concepts of one record.

    `bad` collects the elements that cannot be used, `absent` the texts that describe nothing.
    """

    key: str
    image_root: str
    names: FieldNames
    bad: list[BadRecord] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def fault(self, reason: str, detail: str) -> BadRecord:
        return BadRecord(reason, self.key, detail)

    def image(self, fields: Fields) -> tuple[ImageData, set[str]]:
        """Return the image, and the names of the fields that do not go to `extra`."""
        if self.names.image_key is None and "images" in fields:
            paths = self.strings(fields["images"], "images")
            if not paths:
                raise self.fault("wrong type", "images is empty")
            return storage.join(self.image_root, paths[0]), set()
        names = [self.names.image_key] if self.names.image_key is not None else list(_IMAGE_FIELDS)
        name = next((name for name in names if fields.get(name) is not None), None)
        if name is None and (name := next((name for name in names if name in fields), None)) is None:
            raise self.unknown_fields(fields, "image", names)
        value = fields[name]
        if not isinstance(value, str):
            raise self.fault("wrong type", f"{name} is {short_repr(value)}, expected a string")
        check_unicode(value, self.key)
        is_path = self.names.is_image_rpath
        if is_path is None:
            is_path = _IMAGE_FIELDS.get(name, True)
        image = storage.join(self.image_root, value) if is_path else self.decode_base64(value, name)
        return image, {name} | set(_IMAGE_FIELDS)

    def decode_base64(self, text: str, name: str) -> bytes:
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.fault("image is not base64", f"{name}: {error}") from error

    def concepts(self, fields: Fields) -> list[Concept]:
        form = next((name for name in TEXT_FIELDS if name in fields), self.names.caption_key)
        if form not in fields and _ABSENT in fields:
            return []
        if fields and set(fields) <= _TEST_IMAGE_FIELDS:
            return []
        if form not in fields:
            raise self.unknown_fields(fields, "text", [self.names.caption_key, *TEXT_FIELDS])
        if form in ("question", "sentence", "questions", "statements"):
            return []
        if form == "text":
            if fields.get("no_target"):
                return self.add_absent(fields, "text")
            return self.concept(fields, "text", "bbox")
        captions = []
        if self.names.caption_key in fields:
            captions = self.concept(fields, self.names.caption_key, "")
        return captions + self.regions(fields.get("elems", []))

    def regions(self, elems: Any) -> list[Concept]:
        if not isinstance(elems, list):
            raise self.fault("wrong type", f"elems is {short_repr(elems)}, expected a list of objects")
        concepts = []
        for index, elem in enumerate(elems):
            name = f"elems[{index}]"
            if not isinstance(elem, Mapping):
                detail = f"{name} is {short_repr(elem)}, expected an object"
                self.bad.append(self.fault("wrong type", detail))
            elif "caption" not in elem or "bb" not in elem:
                detail = f"{name} has {_list_names(elem)}; it needs caption and bb, and may have attributes"
                self.bad.append(self.fault("unknown fields", detail))
            else:
                concepts += self.concept(elem, "caption", "bb", f"{name}.")
        return concepts

    def concept(self, fields: Fields, text_name: str, box_name: str, prefix: str = "") -> list[Concept]:
        """Return one concept per box, or one without a box.

        `prefix` is the path of a region in error messages; only a region has attributes.
        """
        try:
            texts = self.texts(fields[text_name], f"{prefix}{text_name}")
            words = self.strings(fields.get("attributes") or [], f"{prefix}attributes") if prefix else ()
        except BadRecord as error:
            self.bad.append(error)
            return []
        attributes = tuple(word for word in words if word.strip())
        if box_name not in fields:
            return [Concept(texts, None, attributes)]
        if fields[box_name] == []:
            self.absent += texts
            return []
        boxes = self.boxes(fields[box_name], f"{prefix}{box_name}")
        return [Concept(texts, box, attributes) for box in boxes]

    def add_absent(self, fields: Fields, name: str) -> list[Concept]:
        """Note texts that describe nothing in the image; return no concept."""
        try:
            self.absent += self.texts(fields[name], name)
        except BadRecord as error:
            self.bad.append(error)
        return []

    def texts(self, value: Any, name: str) -> tuple[str, ...]:
        """Return the texts of one concept.  Raises BadRecord if no text is left."""
        items = value if isinstance(value, list | tuple) else [value]
        texts, unusable = [], []
        for index, item in enumerate(items):
            item_name = name if items is not value else f"{name}[{index}]"
            text = _join_word_pieces(item) if self.names.tokenized else item
            if not isinstance(text, str):
                detail = f"{item_name} is {short_repr(item)}, expected a string or a list of them"
                unusable.append(self.fault(NULL_VALUE if item is None else "wrong type", detail))
            elif not is_unicode(text):
                unusable.append(self.fault(INVALID_UNICODE, f"{item_name} is {short_repr(text)}"))
            else:
                texts.append(text)
        if unusable and not texts:
            raise unusable[0]
        self.bad += unusable
        return tuple(texts)

    def strings(self, value: Any, name: str) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
            detail = f"{name} is {short_repr(value)}, expected a string or a list of them"
            raise self.fault("wrong type", detail)
        check_unicode(values, self.key)
        return tuple(values)

    def boxes(self, value: Any, name: str) -> list[BoxXYXY]:
        """Return one box, or the distinct boxes of a list."""
        is_list = isinstance(value, list | tuple) and any(isinstance(box, list | tuple) for box in value)
        boxes: dict[BoxXYXY, None] = {}
        for index, item in enumerate(value if is_list else [value]):
            try:
                boxes[self.box(item, f"{name}[{index}]" if is_list else name)] = None
            except BadRecord as error:
                self.bad.append(error)
        return list(boxes)

    def box(self, value: Any, name: str) -> BoxXYXY:
        are_numbers = isinstance(value, list | tuple) and all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in value
        )
        if not are_numbers or len(value) != 4:
            detail = f"{name} is {short_repr(value)}, expected four numbers x, y, w, h"
            raise self.fault(NULL_VALUE if value is None else "wrong type", detail)
        try:
            x, y, w, h = map(float, value)
        except OverflowError as error:
            raise self.fault("wrong type", f"{name}: {error}") from error
        return x, y, x + w, y + h

    def unknown_fields(self, fields: Fields, what: str, expected: list[str]) -> BadRecord:
        detail = f"no field for the {what}: found {_list_names(fields)}, expected one of {expected}"
        return self.fault("unknown fields", detail)


def _join_word_pieces(text: Any) -> Any:
    """Return the original text of word pieces: `##s` (BERT) ends a word, `Ġdog` (RoBERTa) begins one."""
    if isinstance(text, list | tuple) and all(isinstance(piece, str) for piece in text):
        text = " ".join(text)
    if not isinstance(text, str):
        return text
    return text.replace(" ", "").replace("Ġ", " ").strip() if "Ġ" in text else text.replace(" ##", "")


def _list_names(fields: Fields) -> str:
    """Return the sorted names of the first 20 fields, each of at most 40 characters."""
    names = sorted(str(name)[:40] for name in islice(fields, 20))
    return f"{names}" + (f" and {len(fields) - 20} more" if len(fields) > 20 else "")
