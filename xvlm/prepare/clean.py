"""Check and convert one sample: what training reads afterwards has been read, decoded and checked once."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from xvlm.data.images.content_hash import content_hash
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.sources.record_fields import TEXT_FIELDS, record_from_fields
from xvlm.prepare.filtering import Filter, unwanted_captions, unwanted_regions, why_not_image, why_not_text
from xvlm.prepare.image_hashes import content_hash_of
from xvlm.prepare.perceptual_hash import HASH_PIXELS, perceptual_hash
from xvlm.prepare.records import to_xywh
from xvlm.prepare.sample import Sample
from xvlm.prepare.settings import Settings
from xvlm.records import BadRecord, BoxXYXY, Concept, Note, Record

SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
"""Suffixes in a shard, by Pillow's name of the format; images in other formats become JPEGs."""
_DECIMALS = 2
TEXT_REPEATED = "text occurs too often"


@dataclass(frozen=True)
class CleanSample:
    """A sample that was checked.

    Attributes:
        data: encoded image.
        suffix: suffix of its file.
        fields: its fields, with boxes in pixels of this image.
        content: hash of the bytes that the release has.
        perceptual: (32,) uint8, see `perceptual_hash.py`.
        right: the same two hashes of the second image of a pair.
        left_out: texts and boxes that were left out.
        notes: what was changed.
    """

    data: bytes
    suffix: str
    fields: dict[str, Any]
    content: bytes
    perceptual: np.ndarray
    left_out: list[BadRecord] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    right: tuple[bytes, np.ndarray] | None = None

    def hashes(self) -> list[tuple[bytes, np.ndarray]]:
        """Return (content, (32,) uint8) of its image, or of both images of a pair."""
        return [(self.content, self.perceptual), *([] if self.right is None else [self.right])]


def clean(
    sample: Sample,
    data: bytes,
    settings: Settings,
    filters: Sequence[Filter],
    is_repeated: Callable[[str], bool] = lambda text: False,
    why_excluded: Callable[[str, bytes], str | None] = lambda key, content: None,
) -> CleanSample:
    """Check a sample.

    Args:
        data: its encoded image.
        filters: see `filtering.py`.
        is_repeated: whether a caption occurs too often in the set.
        why_excluded: why an image is left out, by key and hash of its bytes, or `None`.
    Raises:
        BadRecord: the image does not decode or is filtered out, or nothing else is left.
    """
    key, notes, content = sample.key, list[Note](), content_hash(data)
    if reason := why_excluded(key, content):
        raise BadRecord(reason, key)
    opened = open_image(data, key=key)
    if reason := why_not_image(filters, opened):
        raise BadRecord(reason, key, f"{opened.width} x {opened.height}")
    fields = _in_pixels(sample, opened) if sample.has_fractions else sample.fields
    record = record_from_fields(fields, key=key, image=data)
    right: tuple[bytes, np.ndarray] | None = None
    if isinstance(path := record.extra.get("right"), str):
        second = open_image(path, key=key, trusted=True)
        right = content_hash_of(second), perceptual_hash(second.image)
        if reason := why_excluded(key, right[0]):
            raise BadRecord(reason, key, path)
    concepts, left_out = list(record.concepts), list(record.bad)
    if concepts:
        concepts, left_out = usable_concepts(record, opened, notes)

    def why_not(text: str, is_caption: bool) -> str | None:
        if reason := why_not_text(filters, text):
            return reason
        return TEXT_REPEATED if is_caption and is_repeated(text) else None

    concepts = _without_texts(concepts, key, why_not, left_out)
    captions = [text for one in concepts if one.box_xyxy is None for text in one.texts]
    if improbable := unwanted_captions(filters, captions, opened):
        concepts = _without_texts(
            concepts, key, lambda text, is_caption: improbable.get(text) if is_caption else None, left_out
        )
    unwanted = unwanted_regions(filters, concepts, opened)
    left_out += [BadRecord(why, key, repr(concepts[place].texts[0][:80])) for place, why in unwanted.items()]
    concepts = [one for place, one in enumerate(concepts) if place not in unwanted]
    if left_out and not (concepts or record.absent_texts or _has_task_fields(record)):
        raise left_out[0]
    encoded, suffix, scale, small = _encode(opened, settings, notes)
    cleaned = _fields(sample, record, concepts, scale)
    if not cleaned.keys() & {"caption", "absent", *TEXT_FIELDS}:
        raise BadRecord("image without annotation", key)
    cleaned |= {"width": round(opened.width * scale[0]), "height": round(opened.height * scale[1])}
    return CleanSample(encoded, suffix, cleaned, content, perceptual_hash(small), left_out, notes, right)


def _in_pixels(sample: Sample, opened: ImageFile) -> dict[str, Any]:
    """Return the fields with boxes in pixels."""
    sides = (opened.width, opened.height, opened.width, opened.height)

    def box(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], list):
            return [box(one) for one in value]
        if isinstance(value, list) and len(value) == 4 and all(isinstance(one, int | float) for one in value):
            return [number * side for number, side in zip(value, sides, strict=True)]
        return value  # which is found to be no box

    elems = [{**elem, "bb": box(elem["bb"])} for elem in sample.fields.get("elems", [])]
    return {**sample.fields, "elems": elems}


def _without_texts(
    concepts: Sequence[Concept],
    key: str,
    why_not: Callable[[str, bool], str | None],
    left_out: list[BadRecord],
) -> list[Concept]:
    """Return the concepts without the texts for which there is a reason.

    Args:
        why_not: returns why a text is left out; its second argument is whether it describes the whole image.
    """
    selected = []
    for concept in concepts:
        texts = []
        for text in concept.texts:
            reason = why_not(text, concept.box_xyxy is None)
            if reason is None:
                texts.append(text)
            else:
                left_out.append(BadRecord(reason, key, repr(text[:80])))
        if texts:
            selected.append(replace(concept, texts=tuple(texts)))
    return selected


def _has_task_fields(record: Record) -> bool:
    return any(name in record.extra for name in ("question", "questions", "sentence", "statements"))


def _encode(
    opened: ImageFile, settings: Settings, notes: list[Note]
) -> tuple[bytes, str, tuple[float, float], Image.Image]:
    """Return encoded image, suffix, scale of x and y, and an upright image to hash; the image was decoded."""
    assert isinstance(opened.data, bytes)
    shorter = min(opened.width, opened.height)
    target = settings.resize
    if target is not None and shorter > target:
        width, height = (max(1, round(side * target / shorter)) for side in (opened.width, opened.height))
        image = opened.resized((0, 0, opened.width, opened.height), (height, width), fast=True)
        return _jpeg(image, settings.quality), "jpg", (width / opened.width, height / opened.height), image
    if opened.format not in SUFFIXES:
        notes.append(Note("image encoded again", opened.key, f"{opened.format} becomes JPEG"))
        image = opened.image
        return _jpeg(image, 95), "jpg", (1.0, 1.0), image
    whole = (0.0, 0.0, float(opened.width), float(opened.height))
    small = opened.resized(whole, (HASH_PIXELS, HASH_PIXELS), fast=True)
    return opened.data, SUFFIXES[opened.format], (1.0, 1.0), small


def _jpeg(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def _fields(
    sample: Sample, record: Record, concepts: Sequence[Concept], scale: tuple[float, float]
) -> dict[str, Any]:
    """Return the fields in the published forms, with boxes x, y, w, h in pixels of the encoded image."""
    fields: dict[str, Any] = {"key": sample.key, **record.extra}
    fields.pop("images", None)  # the second one is also under `right`
    if sample.ids:
        fields["ids"] = dict(sample.ids)
    if record.absent_texts and "text" not in sample.fields:
        fields["absent"] = list(record.absent_texts)
    if "text" in sample.fields:
        boxes = [_xywh(box, scale) for one in concepts for box in one.targets_xyxy]
        texts = list(concepts[0].texts if concepts else record.absent_texts)
        fields["text"], fields["bbox"] = _single(texts), _single(boxes)
        return fields
    captions = [text for one in concepts if one.box_xyxy is None for text in one.texts]
    if captions:
        fields["caption"] = captions
    elems = _elems(concepts, scale)
    if elems or "elems" in sample.fields:
        fields["elems"] = elems
    return fields


def _elems(concepts: Sequence[Concept], scale: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the regions; those with the same texts are one, with a list of boxes."""
    boxes: dict[tuple[tuple[str, ...], tuple[str, ...]], list[list[float]]] = {}
    for one in concepts:
        if one.box_xyxy is not None:
            boxes.setdefault((one.texts, one.attributes), []).extend(
                _xywh(box, scale) for box in one.targets_xyxy
            )
    return [
        {"caption": _single(texts), "bb": _single(own)} | ({"attributes": list(words)} if words else {})
        for (texts, words), own in boxes.items()
    ]


def _single(values: Sequence[Any]) -> Any:
    """Return the only value, or a list of several."""
    return values[0] if len(values) == 1 else list(values)


def _xywh(box_xyxy: BoxXYXY, scale: tuple[float, float]) -> list[float]:
    sides = zip(to_xywh(box_xyxy), (*scale, *scale), strict=True)
    return [round(number * factor, _DECIMALS) for number, factor in sides]
