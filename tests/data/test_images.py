"""Every stored form is decoded to upright 8-bit RGB, as a full image or as a crop."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.data import make
from xvlm.data.images.decode import _TRANSPOSE, open_image, orient_box
from xvlm.records import BadRecord


def _difference(a: Image.Image, b: Image.Image) -> float:
    assert a.size == b.size
    return float(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_from_bytes_and_path(format: str, tmp_path) -> None:
    photo = make.photo(64, 48)
    data = make.encoded(photo, format)
    (tmp_path / "image").write_bytes(data)
    for image in (data, str(tmp_path / "image")):
        opened = open_image(image, key="k")
        assert (opened.width, opened.height) == (64, 48)
        assert opened.image.mode == "RGB"
        assert _difference(opened.image, photo) < (12 if format == "GIF" else 5)


def test_pixels_are_unchanged() -> None:
    pixels = np.asarray(make.photo(20, 10))
    opened = open_image(pixels, key="k")
    assert (opened.width, opened.height) == (20, 10)
    assert np.array_equal(np.asarray(opened.image), pixels)


def test_remote_file() -> None:
    import fsspec

    with fsspec.open("memory://images/a.jpg", "wb") as file:
        file.write(make.encoded(make.photo(30, 20)))
    assert open_image("memory://images/a.jpg", key="k").width == 30
    assert make.bad_record(open_image, "memory://images/b.jpg", key="k").reason == "image file missing"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    data = make.encoded(make.photo(64, 40), format, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    opened = open_image(data, key="k")
    assert (opened.width, opened.height) == expected.size == opened.image.size
    assert _difference(opened.image, expected) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_oriented_box_covers_the_same_pixels(orientation: int) -> None:
    stored = make.painted(31, 17, (3, 2, 11, 15))
    upright = stored if orientation == 1 else stored.transpose(_TRANSPOSE[orientation])
    red = np.asarray(upright)[:, :, 0] == 255
    rows, columns = np.nonzero(red.any(1))[0], np.nonzero(red.any(0))[0]
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert orient_box((3, 2, 11, 15), 31, 17, orientation) == box


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(200, 420), st.integers(200, 420), st.floats(0, 0.7), st.floats(0, 0.7))
def test_reduced_decoding_shows_the_same_crop(
    orientation: int, width: int, height: int, left: float, top: float
) -> None:
    opened = open_image(make.encoded(make.photo(width, height), "JPEG", orientation), key="k")
    width, height = opened.width, opened.height
    crop = (left * width, top * height, (left + 0.3) * width, (top + 0.3) * height)
    exact = opened.resized(crop, (16, 16))
    assert _difference(opened.resized(crop, (16, 16), fast=True), exact) < 3


def test_reduced_decoding_keeps_edges_in_place() -> None:
    """641 is not a multiple of 8, so the last reduced column covers one pixel, not eight."""
    image = make.painted(641, 641, (0, 0, 320, 641))
    for orientation in (1, 3):
        opened = open_image(make.encoded(image, "JPEG", orientation), key="k")
        full = np.asarray(opened.resized((0, 0, 641, 641), (64, 64)), np.int16)
        fast = np.asarray(opened.resized((0, 0, 641, 641), (64, 64), fast=True), np.int16)
        assert np.abs(full - fast)[:, 2:-2].max() < 30, orientation


def test_reduced_decoding_has_the_wanted_resolution() -> None:
    opened = open_image(make.encoded(make.photo(640, 480)), key="k")
    assert opened._decode((160, 120))[0].size == (160, 120)
    assert opened._decode((161, 120))[0].size == (320, 240)
    assert opened._decode(None)[0].size == (640, 480)
    sideways = open_image(make.encoded(make.photo(640, 160), orientation=6), key="k")
    assert sideways._decode((40, 160))[0].size == (40, 160)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100,) * 3),
        ("1", 1, (255,) * 3),
        ("LA", (0, 0), (255,) * 3),
        ("LA", (80, 255), (80,) * 3),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
    ],
)
def test_modes_become_rgb_over_white(mode: str, colour, expected: tuple[int, int, int]) -> None:
    data = make.encoded(Image.new(mode, (4, 4), colour), "PNG")
    assert open_image(data, key="k").image.getpixel((1, 1)) == expected


def test_palette_with_transparency_and_cmyk() -> None:
    palette = make.painted(8, 8, (0, 0, 4, 8)).quantize(2)
    red = palette.getpixel((0, 0))
    data = make.encoded(palette, "PNG", transparency=red)
    image = open_image(data, key="k").image
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((7, 7)) == (0, 60, 0)
    cmyk = make.encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    r, g, b = open_image(cmyk, key="k").image.getpixel((4, 4))
    assert r > 240 and g < 20 and b < 20


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    data = make.encoded(Image.fromarray(np.tile(ramp, (4, 1))), format)
    grey = np.asarray(open_image(data, key="k").image)[0, :, 0]
    assert np.array_equal(grey, np.arange(256))


def test_pixels_without_known_range_are_bad() -> None:
    for pixels in (np.full((4, 4), 100_000, np.int32), np.full((4, 4), 2.0, np.float32)):
        with pytest.raises(BadRecord, match="known meaning"):
            _ = open_image(make.encoded(Image.fromarray(pixels), "TIFF"), key="k").image
    half = make.encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    assert open_image(half, key="k").image.getpixel((0, 0)) == (128, 128, 128)
