"""What a sample is: an image, and the texts that describe it or parts of it.

A *visual concept* is an object, a region or the whole image (X-VLM, section 3).  A record holds one
image with any number of concepts; each concept has one or more texts that all describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xvlm.errors import XVLMError

BoxXYXY = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the stored, upright image; x1 and y1 are exclusive edges."""

ImageData = str | bytes | np.ndarray
"""A path or URL, encoded bytes (JPEG, PNG, WebP, ...), or decoded pixels (H, W, 3) uint8."""


NULL = "value is null"
"""Reason of an element of which the file says that it has no text or no box."""
DISAGREE = "annotators disagree"
NO_FAULT = (NULL, DISAGREE)
"""Reasons that are no fault of a file: they are counted and reported, and do not count against `max_bad`."""


class BadRecord(XVLMError, ValueError):
    """One sample that cannot be used.  It is counted under `reason`, logged with `key`, and skipped.

    `reason` is a short fixed phrase (a counter's name); `detail` says what was found.
    """

    def __init__(self, reason: str, key: str = "", detail: str = "") -> None:
        super().__init__(f"{key or 'record'}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.key = key
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:  # exceptions with keywords do not pickle by themselves
        return (BadRecord, (self.reason, self.key, self.detail))


@dataclass(frozen=True)
class Note:
    """Something of a sample that is used otherwise than it stands: a box clipped, a text cut.

    It is counted under `reason` and reported as a bad record is, but it is none.
    """

    reason: str
    key: str = ""
    detail: str = ""


def same_id(value: Any) -> str:
    """One spelling of an id of an image or a question: 123, "123" and "000000123" are the same."""
    text = str(value).strip()
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


@dataclass(frozen=True)
class Concept:
    """An object, a region or the whole image, with the texts that describe it.

    Attributes:
        texts: at least one; each on its own describes the concept (one is drawn per visit).
        box_xyxy: where it is, in pixels; `None` for the whole image.
        attributes: words that may be put before a text ("red", "wooden"); one is drawn per visit.
    """

    texts: tuple[str, ...]
    box_xyxy: BoxXYXY | None = None
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One image with its concepts.

    Attributes:
        key: names the sample in logs and errors; unique within its source.
        image: see `ImageData`.
        concepts: captions are concepts without a box.
        extra: what some task needs besides (questions, answers, ...), by name.
        bad: what of it cannot be used, each element with its reason; the rest can.
    """

    key: str
    image: ImageData
    concepts: tuple[Concept, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    bad: tuple[BadRecord, ...] = field(default=(), compare=False)
