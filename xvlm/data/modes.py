"""Pixels of any of Pillow's modes -> 8-bit RGB, strip by strip where a whole copy would be large.

Colour profiles (ICC) are ignored, as in the published code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from xvlm.data.limits import GREY_BITS, current
from xvlm.errors import InputError

_STRIP_PIXELS = 2**22
_log = logging.getLogger(__name__)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> 8-bit RGB.

    Transparent parts show white.  Grey of 16 bits is scaled from its range: the smallest of 8, 10, 12, 14 and
    16 bits that holds the image's largest value, since cameras and scanners store 10 to 14 bits so;
    `grey_bits` of `Limits` says otherwise.  Floats are 0 to 1.

    Raises:
        InputError: float or 32-bit pixels whose range is not known.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _by_strips(image, _grey_scale(image))
    if image.has_transparency_data:
        return _by_strips(image, _over_white)
    if image.mode == "LAB":
        return _by_strips(image, _from_lab)
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(top, part) of the image; one part where it is small."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        rgb.paste(convert(strip), (0, top))
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def _grey_scale(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What brings a strip of this image to 8 bits."""
    extremes = [(part.min(), part.max()) for part in (np.asarray(strip) for _, strip in _strips(image))]
    smallest, largest = np.min(extremes), np.max(extremes)
    full = grey_maximum(float(largest), smallest.dtype)
    if not (smallest >= 0 and largest <= full):  # also true for NaN
        raise InputError(
            f"{smallest.dtype} pixels from {smallest} to {largest}; only 0 to {full} has a known meaning"
        )

    def scaled(strip: Image.Image) -> Image.Image:
        return Image.fromarray(np.round(np.asarray(strip) * (255 / full)).astype(np.uint8))

    return scaled


def grey_maximum(largest: float, dtype: np.dtype[Any]) -> float:
    """The value that shows white, of an image whose largest value is known."""
    if dtype.kind == "f":
        return 1.0
    bits = current().grey_bits
    if not bits:
        bits = next((bits for bits in GREY_BITS if largest < 2**bits), GREY_BITS[-1])
        if largest > 0 and bits < GREY_BITS[-1]:
            _say_scaled(bits)
    return float(2**bits - 1)


@cache
def _say_scaled(bits: int) -> None:
    """Once for each number of bits."""
    _log.warning(
        "a grey image of 16 bits holds no value above %d: it is scaled as one of %d bits, and so are others "
        "like it; --grey-bits 16 takes them as they are",
        2**bits - 1,
        bits,
    )
