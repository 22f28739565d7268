"""Pixels of any of Pillow's modes -> 8-bit RGB, strip by strip where a whole copy would be large.

Colour profiles (ICC) are ignored, as in the published code.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from xvlm.data.limits import BIT_DEPTHS, current
from xvlm.errors import InputError

_STRIP_PIXELS = 2**22
_log = logging.getLogger(__name__)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> 8-bit RGB.

    Transparent parts show white.  Grey of 16 bits is scaled from its range: the smallest of 8, 10, 12, 14 and
    16 bits that holds the image's largest value, since cameras and scanners store 10 to 14 bits so;
    `significant_bits` of `Limits` says otherwise.  Floats are 0 to 1.

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
    bits = current().significant_bits
    if not bits:
        bits = next((bits for bits in BIT_DEPTHS if largest < 2**bits), BIT_DEPTHS[-1])
        if largest > 0 and bits < BIT_DEPTHS[-1]:
            _say_scaled(bits)
    return float(2**bits - 1)


@cache
def _say_scaled(bits: int) -> None:
    """Once for each number of bits."""
    _log.warning(
        "an image of 16 bits a channel holds no value above %d: it is scaled as one of %d bits, and so are "
        "others like it; --significant-bits 16 takes them as they are",
        2**bits - 1,
        bits,
    )


def stored_bytes(image: Image.Image, low: bool = False) -> str:
    """The raw mode of colours that are stored in 16 bits and not yet decoded; empty for others.

    Pillow keeps the high byte of each.  With `low`, the image is set to decode the low bytes instead.
    """
    tiles = getattr(image, "tile", None) or []
    raw = next((one for one in map(_raw_mode, tiles) if one in _OTHER_BYTE), "")
    if low and raw:
        image.tile = [tile._replace(args=_with_raw_mode(tile.args, _OTHER_BYTE[raw])) for tile in tiles]  # type: ignore[attr-defined]
    return raw


_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{'B' if order.replace('N', _NATIVE) == 'L' else 'L'}"
    for mode in ("RGB", "RGBA")
    for order in "LBN"
}


def _raw_mode(tile: Any) -> str:
    args = tile[3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def _with_raw_mode(args: Any, raw: str) -> Any:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw


def uses_low_bytes(high: Image.Image) -> bool:
    """Whether colours of 16 bits, of which these are the high bytes, are or may be of 14 bits or fewer."""
    if current().significant_bits:
        return current().significant_bits < BIT_DEPTHS[-1]
    return max(top for _, top in high.getextrema()[:3]) < 2**6  # type: ignore[misc]


def join_bytes(high: Image.Image, low: Image.Image) -> Image.Image:
    """Colours of 16 bits -> 8, scaled from their range as grey is; alpha keeps its high byte.

    Raises InputError for values above the range that was said.
    """
    largest = max(int(part.max()) for channel in range(3) for _, part in _joined(high, low, channel))
    full = grey_maximum(largest, np.dtype(np.uint16))
    if largest > full:
        raise InputError(f"uint16 pixels up to {largest}; only 0 to {full} has a known meaning")
    bands = []
    for channel in range(3):
        band = Image.new("L", high.size)
        for top, part in _joined(high, low, channel):
            band.paste(Image.fromarray(np.round(part * (255 / full)).astype(np.uint8)), (0, top))
        bands.append(band)
    return Image.merge(high.mode, [*bands, *map(high.getchannel, range(3, len(high.getbands())))])


def _joined(high: Image.Image, low: Image.Image, channel: int) -> Iterator[tuple[int, np.ndarray]]:
    """(top, values of 16 bits (rows, width)) of each strip of one channel."""
    for (top, one), (_, other) in zip(
        _strips(high.getchannel(channel)), _strips(low.getchannel(channel)), strict=True
    ):
        yield top, np.asarray(one).astype(np.uint16) * 256 + np.asarray(other)
