"""Convert every pixel mode of Pillow to 8-bit RGB, strip by strip where a full copy would be large.

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

from xvlm.common.errors import InputError
from xvlm.data.files.limits import BIT_DEPTHS, current_limits

_STRIP_PIXELS = 2**22
_log = logging.getLogger(__name__)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    Transparent parts become white.  16-bit grey is scaled by its bit depth: the smallest of 8, 10, 12, 14 and
    16 that holds the largest value of the image, since cameras and scanners store 10 to 14 bits in this way,
    or `Limits.significant_bits` if it is set.  Floats are scaled from 0 to 1.

    Raises InputError for float or 32-bit pixels whose range is not known.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _convert_strips(image, _grey_converter(image))
    if image.has_transparency_data:
        return _convert_strips(image, _blend_over_white)
    if image.mode == "LAB":
        return _convert_strips(image, _convert_lab)
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top row, strip) of an image; a small image is one strip."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        rgb.paste(convert(strip), (0, top))
    return rgb


def _blend_over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _convert_lab(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def _grey_converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that scales a strip of this image to 8 bits."""
    extremes = [(part.min(), part.max()) for part in (np.asarray(strip) for _, strip in _strips(image))]
    smallest, largest = np.min(extremes), np.max(extremes)
    white = white_level(float(largest), smallest.dtype)
    if not (smallest >= 0 and largest <= white):  # also true for NaN
        raise InputError(
            f"{smallest.dtype} pixels from {smallest} to {largest}; only 0 to {white} has a known meaning"
        )

    def convert(strip: Image.Image) -> Image.Image:
        return Image.fromarray(np.round(np.asarray(strip) * (255 / white)).astype(np.uint8))

    return convert


def white_level(largest: float, dtype: np.dtype[Any]) -> float:
    """Return the value that means white in an image with this largest value and type."""
    if dtype.kind == "f":
        return 1.0
    bits = current_limits().significant_bits
    if not bits:
        bits = next((bits for bits in BIT_DEPTHS if largest < 2**bits), BIT_DEPTHS[-1])
        if largest > 0 and bits < BIT_DEPTHS[-1]:
            _warn_scaled(bits)
    return float(2**bits - 1)


@cache
def _warn_scaled(bits: int) -> None:
    """Log a warning, once for each bit depth."""
    _log.warning(
        "an image with 16 bits per channel holds no value above %d: it and others like it are scaled as "
        "%d-bit images; --significant-bits 16 prevents this",
        2**bits - 1,
        bits,
    )


_NATIVE = "L" if sys.byteorder == "little" else "B"
_SWAPPED_RAW_MODE = {
    f"{mode};16{order}": f"{mode};16{'B' if order.replace('N', _NATIVE) == 'L' else 'L'}"
    for mode in ("RGB", "RGBA")
    for order in "LBN"
}


def raw_mode_16_bit(image: Image.Image) -> str:
    """Return the raw mode of 16-bit colours, of which Pillow decodes only the high bytes; "" for others."""
    raw_modes = (_raw_mode(tile[3]) for tile in getattr(image, "tile", None) or [])
    return next((raw_mode for raw_mode in raw_modes if raw_mode in _SWAPPED_RAW_MODE), "")


def _raw_mode(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _replace_raw_mode(args: Any, raw_mode: str) -> Any:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def decode_low_bytes(image: Image.Image) -> None:
    """Set an image with 16-bit colours that are not yet decoded to decode their low bytes."""
    if raw_mode := _SWAPPED_RAW_MODE.get(raw_mode_16_bit(image)):
        tiles = image.tile  # type: ignore[attr-defined]
        image.tile = [tile._replace(args=_replace_raw_mode(tile.args, raw_mode)) for tile in tiles]  # type: ignore[attr-defined]


def needs_low_bytes(high: Image.Image) -> bool:
    """Return whether 16-bit colours with these high bytes have, or may have, 14 bits or fewer."""
    if current_limits().significant_bits:
        return current_limits().significant_bits < BIT_DEPTHS[-1]
    return max(top for _, top in high.getextrema()[:3]) < 2**6  # type: ignore[misc]


def join_bytes(high: Image.Image, low: Image.Image) -> Image.Image:
    """Join the bytes of 16-bit colours and scale them to 8 bits, as grey is; alpha keeps its high byte.

    Raises InputError for values above the range of `Limits.significant_bits`.
    """
    largest = max(int(part.max()) for channel in range(3) for _, part in _joined(high, low, channel))
    white = white_level(largest, np.dtype(np.uint16))
    if largest > white:
        raise InputError(f"uint16 pixels up to {largest}; only 0 to {white} has a known meaning")
    bands = []
    for channel in range(3):
        band = Image.new("L", high.size)
        for top, part in _joined(high, low, channel):
            band.paste(Image.fromarray(np.round(part * (255 / white)).astype(np.uint8)), (0, top))
        bands.append(band)
    return Image.merge(high.mode, [*bands, *map(high.getchannel, range(3, len(high.getbands())))])


def _joined(high: Image.Image, low: Image.Image, channel: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (top row, 16-bit values (rows, width)) for each strip of one channel."""
    for (top, high_part), (_, low_part) in zip(
        _strips(high.getchannel(channel)), _strips(low.getchannel(channel)), strict=True
    ):
        yield top, np.asarray(high_part).astype(np.uint16) * 256 + np.asarray(low_part)
