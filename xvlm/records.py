"""Records: an image with the texts that describe it or parts of it.

A *visual concept* is an object, a region or the whole image (X-VLM, section 3).  A record holds one
image with any number of concepts; each concept has one or more texts that all describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xvlm.common.errors import XVLMError

BoxXYXY = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the stored, upright image; x1 and y1 are exclusive edges."""

ImageData = str | bytes | np.ndarray
"""A path or URL, encoded bytes (JPEG, PNG, WebP, ...), or decoded pixels (height, width, 3) uint8."""


NULL_VALUE = "value is null"
"""Reason for an element whose text or box is null in the file."""
DISAGREE = "annotators disagree"
HARMLESS_REASONS = (NULL_VALUE, DISAGREE)
"""Reasons that are no fault of a file: they are counted and reported, but not against `max_bad`."""


class BadRecord(XVLMError, ValueError):
    """A sample that cannot be used.  It is counted under `reason`, logged with `key`, and skipped.

    `reason` is a short fixed phrase (the name of a counter); `detail` shows the value that was found.
    """

    def __init__(self, reason: str, key: str = "", detail: str = "") -> None:
        super().__init__(f"{key or 'record'}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.key = key
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:  # an exception with keyword arguments does not pickle by itself
        return (BadRecord, (self.reason, self.key, self.detail))


@dataclass(frozen=True)
class Note:
    """A sample that is used with a change: a clipped box or a truncated text.

    It is counted under `reason` and reported like a bad record, but does not count as bad.
    """

    reason: str
    key: str = ""
    detail: str = ""


def normalize_id(value: Any) -> str:
    """Return one spelling for the id of an image or a question: 123, "123" and "000000123" are the same."""
    text = str(value).strip()
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


@dataclass(frozen=True)
class Concept:
    """An object, a region or the whole image, with the texts that describe it.

    Attributes:
        texts: at least one; each describes the concept on its own.  Training samples one each time.
        box_xyxy: box of the concept in pixels; `None` for the whole image.
        attributes: words that may be put before a text ("red", "wooden"); training samples one each time.
        instances_xyxy: the box of each single thing, if the concept is several ("the two cups") and
            `box_xyxy` surrounds them all.
    """

    texts: tuple[str, ...]
    box_xyxy: BoxXYXY | None = None
    attributes: tuple[str, ...] = ()
    instances_xyxy: tuple[BoxXYXY, ...] = ()

    @property
    def targets_xyxy(self) -> tuple[BoxXYXY, ...]:
        """The boxes that are to be found for a text of the concept; none for the whole image."""
        return self.instances_xyxy or (() if self.box_xyxy is None else (self.box_xyxy,))


@dataclass(frozen=True)
class Record:
    """One image with its concepts.

    Attributes:
        key: name of the sample in logs and errors; unique within its source.
        image: see `ImageData`.
        concepts: captions are concepts without a box.
        extra: further fields that a task reads (questions, answers, ...), by name.
        bad: elements that cannot be used, each with its reason; the rest of the record can.
        absent_texts: texts that describe nothing in the image, although they might.
    """

    key: str
    image: ImageData
    concepts: tuple[Concept, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    bad: tuple[BadRecord, ...] = field(default=(), compare=False)
    absent_texts: tuple[str, ...] = ()
