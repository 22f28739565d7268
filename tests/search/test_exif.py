"""Time and place from EXIF data; damaged tags count as missing."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

import pytest
from PIL import ExifTags, Image

from tests.tiny import photo
from xvlm.search.exif import Exif, read_exif

TAKEN = datetime(2024, 5, 31, 18, 2, 3)


def encoded(details: dict[int, Any], place: dict[int, Any], top: dict[int, Any], kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.update({ExifTags.Base.Make: "maker", **top})
    exif.get_ifd(ExifTags.IFD.Exif).update(details)
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    data = io.BytesIO()
    photo(20, 10, 0).save(data, kind, exif=exif)
    return data.getvalue()


PLACE = {
    ExifTags.GPS.GPSLatitudeRef: "S",
    ExifTags.GPS.GPSLatitude: (33.0, 51.0, 24.0),
    ExifTags.GPS.GPSLongitudeRef: "E",
    ExifTags.GPS.GPSLongitude: (151.0, 12.0, 36.0),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_time_and_place(kind: str) -> None:
    data = encoded({ExifTags.Base.DateTimeOriginal: "2024:05:31 18:02:03"}, PLACE, {}, kind)
    found = read_exif(data)
    assert found.time == TAKEN
    assert found.latitude == pytest.approx(-33.85667, abs=1e-5)
    assert found.longitude == pytest.approx(151.21, abs=1e-5)


def test_png_tags_behind_the_pixels() -> None:
    data = encoded({ExifTags.Base.DateTimeOriginal: "2024:05:31 18:02:03"}, PLACE, {}, "PNG")
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert moved.index(b"eXIf") > moved.index(b"IDAT")
    assert read_exif(moved).time == TAKEN


def test_the_time_of_the_file_stands_in() -> None:
    assert read_exif(encoded({}, {}, {ExifTags.Base.DateTime: "2024:05:31 18:02:03"})).time == TAKEN


@pytest.mark.parametrize("text", ["0000:00:00 00:00:00", "    :  :     :  :  ", "", "2024-05-31", "9" * 400])
def test_times_that_make_no_sense(text: str) -> None:
    assert read_exif(encoded({ExifTags.Base.DateTimeOriginal: text}, {}, {})).time is None


@pytest.mark.parametrize("latitude", [(91.0, 0.0, 0.0), (1.0, 2.0), (0.0, 9000.0, 0.0)])
def test_places_that_make_no_sense(latitude: tuple[float, ...]) -> None:
    place = {**PLACE, ExifTags.GPS.GPSLatitude: latitude}
    found = read_exif(encoded({}, place, {}))
    assert (found.latitude, found.longitude) == (None, None)


def test_a_photo_without_exif() -> None:
    data = io.BytesIO()
    photo(20, 10, 0).save(data, "JPEG")
    assert read_exif(data.getvalue()) == Exif()


def test_damaged_tags_never_raise() -> None:
    data = encoded({ExifTags.Base.DateTimeOriginal: "2024:05:31 18:02:03"}, PLACE, {})
    start = data.index(b"Exif")
    for position in range(start, start + 200, 3):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        assert isinstance(read_exif(bytes(damaged)), Exif)
