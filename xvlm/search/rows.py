"""What an index holds of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What tells versions of a photo's file apart.

    Attributes:
        size: bytes.
        mtime_ns: modification time; 0 if it is unknown.
        hash: hash of the content.
        root: folder, list or shard that led to it.
    """

    size: int
    mtime_ns: int
    hash: str
    root: str


@dataclass(frozen=True, slots=True)
class PhotoRow:
    """A row of the table.

    Attributes:
        path: absolute path or URL, the key.
        file: version of the file.
        time: when it was taken, local time without a time zone; without EXIF data when it was modified.
        has_exif_time: whether `time` is from EXIF data.
        latitude, longitude: degrees; `None` if they are unknown.
        width, height: pixels of the upright image.
        vectors_CE: (1 + windows, E) float16.
    """

    path: str
    file: FileVersion
    time: datetime | None
    has_exif_time: bool
    latitude: float | None
    longitude: float | None
    width: int
    height: int
    vectors_CE: np.ndarray
