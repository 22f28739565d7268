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


Samples = Iterator[Sample | BadRecord]
"""What a reader yields: samples, and what of the release cannot be one."""
