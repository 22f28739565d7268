"""One image of a release with its annotations, as readers of data sets and of annotation files yield it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xvlm.records import BadRecord


@dataclass(frozen=True)
class Sample:
    """An image with its annotations.

    Attributes:
        key: what the release calls the image, in reports.
        image: path, URL or encoded bytes.
        fields: its fields without the image, in a published form (`data/sources/record_fields.py`).
        ids: names of the image in public data sets, such as coco -> 139, by which leaks are found.
        has_fractions: boxes are parts of the width and height of the image, in place of pixels.
    """

    key: str
    image: str | bytes
    fields: Mapping[str, Any]
    ids: Mapping[str, str] = field(default_factory=dict)
    has_fractions: bool = False

    def __post_init__(self) -> None:
        """Raise TypeError if the release has another value where the image is named."""
        if not isinstance(self.key, str) or not isinstance(self.image, str | bytes):
            raise TypeError("the image is not named by a text")


def declared_size(width: Any, height: Any) -> dict[str, Any]:
    """Return the size of an image that annotations declare, as fields; none if it is unknown.

    Boxes are checked by it: an image with a rotation in its EXIF data may be annotated with or without it,
    and one that was resized since has other boxes.

    Args:
        width, height: numbers or texts; 0 and `None` are unknown.
    """
    try:
        size = {"width": int(float(width)), "height": int(float(height))}
    except (OverflowError, TypeError, ValueError):
        return {}
    return size if min(size.values()) > 0 else {}


Samples = Iterator[Sample | BadRecord]
"""What a reader yields: samples, and what of the release cannot be one."""
