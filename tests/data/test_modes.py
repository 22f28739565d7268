"""Pixels of every mode are converted to RGB with their meaning."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.data import make
from xvlm.common.errors import InputError
from xvlm.data.files.limits import temporary_limits
from xvlm.data.images import pixel_modes as modes
from xvlm.data.images.decode import FORMATS, open_image
from xvlm.data.images.pixel_modes import to_rgb


def _grey(values: np.ndarray, format: str = "PNG") -> np.ndarray:
    """Return the red channel of a decoded 16-bit grey image."""
    data = make.encoded(Image.fromarray(values), format)
    return np.asarray(open_image(data, key="k").image)[:, :, 0]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_grey_is_scaled_by_its_bit_depth(bits: int, format: str) -> None:
    """Cameras and scanners store 10 to 14 bits in this way; scaled as 16 bits, they were nearly black."""
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16)
    grey = _grey(np.tile(ramp, (4, 1)), format)
    assert np.array_equal(grey[0], np.arange(256))


def test_the_bit_depth_is_that_of_the_whole_image() -> None:
    """It is neither that of a strip nor that of a crop."""
    values = np.zeros((3000, 2000), np.uint16)
    values[0, :] = 1000
    values[-1, :] = 4000
    data = make.encoded(Image.fromarray(values), "TIFF")
    opened = open_image(data, key="k")
    assert opened.image.getpixel((5, 0)) == (62,) * 3 and opened.image.getpixel((5, 2999)) == (249,) * 3
    assert opened.resized((0, 0, 2000, 1), (1, 1)).getpixel((0, 0)) == (62,) * 3


def test_the_bit_depth_is_an_option() -> None:
    values = np.full((4, 4), 2000, np.uint16)
    assert _grey(values)[0, 0] == round(2000 * 255 / 2047 / 2) == 125  # 2000 needs 11 bits, hence 12
    with temporary_limits(significant_bits=16):
        assert _grey(values)[0, 0] == 8
    with temporary_limits(significant_bits=11):
        assert _grey(values)[0, 0] == 249
    with temporary_limits(significant_bits=10):
        assert "from 2000 to 2000; only 0 to 1023.0 has" in make.bad_record(_grey, values).detail


def test_a_detected_bit_depth_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    modes._warn_scaled.cache_clear()
    with caplog.at_level(logging.WARNING):
        for value in (3000, 4095, 0, 40_000):
            _grey(np.full((4, 4), value, np.uint16))
    assert [record.getMessage() for record in caplog.records] == [
        "an image with 16 bits per channel holds no value above 4095: it and others like it are scaled as "
        "12-bit images; --significant-bits 16 prevents this"
    ]


def _png_16(colours: np.ndarray) -> bytes:
    """Return a 16-bit PNG of (height, width, 3 or 4) uint16 colours."""
    height, width, channels = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    return make.png(width, height, 16, {3: 2, 4: 6}[channels], zlib.compress(rows))


def _tiff_16(colours: np.ndarray, order: str) -> bytes:
    """Return a 16-bit TIFF of (height, width, 3) uint16 colours, little- or big-endian."""
    height, width, _ = colours.shape
    pixels = colours.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: 0, 259: 1, 262: 2, 273: 14, 277: 3, 278: height, 279: len(pixels)}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, *((3, 3, 8) if tag == 258 else (4, 1, value)))
        for tag, value in tags.items()
    )
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI3H", 42, 14 + len(pixels), 16, 16, 16)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF <", "TIFF >"])
def test_16_bit_colours_are_scaled_by_their_bit_depth(bits: int, form: str) -> None:
    """Pillow keeps only the high bytes: 12-bit colours would keep 16 levels, nearly black."""
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16)
    colours = np.tile(np.stack([ramp, ramp[::-1], ramp // 2], axis=1), (4, 1, 1))
    data = _png_16(colours) if form == "PNG" else _tiff_16(colours, form[-1])
    expected = np.round(colours * (255 / (2**bits - 1)))
    decoded = np.asarray(open_image(data, key="k").image)
    assert np.abs(decoded - expected).max() <= (1 if bits == 16 else 0)
    if bits < 16:
        with temporary_limits(significant_bits=16):
            assert np.array_equal(np.asarray(open_image(data, key="k").image), colours // 256)


def test_the_bit_depth_of_colours_is_an_option() -> None:
    data = _png_16(np.full((4, 4, 3), 2000, np.uint16))
    assert open_image(data, key="k").image.getpixel((0, 0)) == (125,) * 3
    with temporary_limits(significant_bits=11):
        assert open_image(data, key="k").image.getpixel((0, 0)) == (249,) * 3
    with temporary_limits(significant_bits=10):
        error = make.bad_record(lambda: open_image(data, key="k").image)
    assert "up to 2000; only 0 to 1023.0 has" in error.detail


def test_transparent_16_bit_colours() -> None:
    colours = np.full((4, 4, 4), 65535, np.uint16)
    colours[..., :3] = (4095, 0, 1000)
    colours[0, 0, 3] = 0
    image = open_image(_png_16(colours), key="k").image
    assert image.getpixel((1, 1)) == (255, 0, 62) and image.getpixel((0, 0)) == (255, 255, 255)


def test_nan_is_found_in_any_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "_STRIP_PIXELS", 8)
    for row in range(4):
        pixels = np.full((4, 8), 0.5, np.float32)
        pixels[row, 3] = np.nan
        with pytest.raises(InputError, match="known meaning"):
            to_rgb(Image.fromarray(pixels))


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "PA", "P", "I;16", "F", "LAB", "CMYK", "YCbCr", "HSV", "1", "RGBX"]
)
def test_strips_are_converted_like_the_whole_image(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = make.photo(40, 30)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 256)
    elif mode == "F":
        image = Image.fromarray(np.asarray(photo.convert("L"), np.float32) / 255)
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode in ("PA", "P"):
        image = photo.quantize(16)
        image.info["transparency"] = 3
    else:
        image = photo.convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.linear_gradient("L").resize(image.size))
    whole = np.asarray(to_rgb(image))
    monkeypatch.setattr(modes, "_STRIP_PIXELS", 100)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)
    if mode in ("LAB", "CMYK", "YCbCr", "HSV", "RGBX"):
        assert np.abs(whole.astype(int) - np.asarray(photo)).mean() < 4


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "PPM"])
def test_less_common_formats(format: str) -> None:
    photo = make.photo(64, 48)
    opened = open_image(make.encoded(photo, format), key="k")
    assert (opened.width, opened.height) == (64, 48)
    assert np.abs(np.asarray(opened.image, int) - np.asarray(photo, int)).mean() < 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P2 2 1 255\n 255 128\n", (255, 128)),
        (b"P5 2 1 255\n" + bytes([255, 128]), (255, 128)),
        (b"P4 2 1\n" + bytes([0b01000000]), (255, 0)),
        (b"P5 2 1 65535\n" + bytes([255, 255, 128, 0]), (255, 128)),
        (b"P5 2 1 4095\n" + bytes([15, 255, 8, 0]), (255, 128)),
    ],
)
def test_netpbm(data: bytes, expected: tuple[int, int]) -> None:
    image = open_image(data, key="k").image
    assert tuple(image.getpixel((x, 0))[1] for x in (0, 1)) == expected  # type: ignore[index]


def test_several_pictures_in_one_jpeg() -> None:
    """MPO, written by phones and stereo cameras: the first picture is decoded, reduced like any JPEG."""
    first, second = make.photo(640, 480, 1), make.photo(640, 480, 2)
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second], quality=95)
    opened = open_image(file.getvalue(), key="k")
    assert np.abs(np.asarray(opened.image, int) - np.asarray(first, int)).mean() < 4
    assert opened._decode((160, 120))[0].size == (160, 120)


def test_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xvlm.data.images.decode._register_heic", lambda: False)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    error = make.bad_record(open_image, data, key="k")
    assert error.reason == "image does not decode"
    assert error.detail == "HEIC, which needs the package pillow-heif: pip install 'xvlm[heic]'"


def test_heic_with_the_extra_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(make.photo(64, 48)).save(file)
    opened = open_image(file.getvalue(), key="k")
    assert opened.image.size == (64, 48)


def test_no_format_whose_decoder_starts_programs_or_guesses() -> None:
    assert not {"EPS", "PS", "WMF", "FPX", "MIC", "TGA", "PCX", "ICNS", "PSD", "XPM"} & set(FORMATS)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    assert "none of JPEG, PNG" in make.bad_record(open_image, eps, key="k").detail
