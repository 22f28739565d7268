"""Time and place of a photo from its EXIF data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from xvlm.data.images.decode import open_pillow

_TIME = "%Y:%m:%d %H:%M:%S"


@dataclass(frozen=True)
class Exif:
    """When and where a photo was taken, as far as its file tells.

    Attributes:
        time: local time where it was taken, without a time zone.
        latitude, longitude: degrees, north and east positive.
    """

    time: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_exif(data: bytes) -> Exif:
    """Read the EXIF data of an encoded image that `open_image` has accepted.

    Values that make no sense count as missing.
    """
    try:
        image = open_pillow(data)
        if image.format == "PNG" and "exif" not in image.info and b"eXIf" in data:
            image.load()  # it may stand behind the pixels
        exif = Image.Image.getexif(image)
        details, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # Pillow's parsers raise almost any type on damaged tags, and a photo is one without
        return Exif()
    time = _time(details.get(ExifTags.Base.DateTimeOriginal)) or _time(exif.get(ExifTags.Base.DateTime))
    latitude = _degrees(place, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S", 90)
    longitude = _degrees(place, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W", 180)
    if latitude is None or longitude is None:
        return Exif(time)
    return Exif(time, latitude, longitude)


def _time(value: Any) -> datetime | None:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    try:
        return datetime.strptime(str(text).strip("\0 ")[:19], _TIME)
    except ValueError:
        return None


def _degrees(
    place: Mapping[int, Any], tag: int, reference_tag: int, negative: str, limit: int
) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in place[tag])
        value = degrees + minutes / 60 + seconds / 3600
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (math.isfinite(value) and 0 <= value <= limit):
        return None
    reference = place.get(reference_tag)
    text = reference.decode("ascii", "replace") if isinstance(reference, bytes) else str(reference)
    return -value if text.strip("\0 ").upper() == negative else value
