"""Images from paths, bytes or arrays to upright 8-bit RGB; the header is checked before anything is decoded.

*Stored* is the image as the file holds it, *upright* is after its EXIF orientation.  Width, height and
boxes always speak of the upright image at full resolution, even where it is decoded smaller.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from xvlm.data import files
from xvlm.data.limits import current
from xvlm.errors import InputError
from xvlm.records import BadRecord, BoxXYXY, ImageData

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


_TURNS = {  # EXIF orientation -> what brings the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read and found good.

    Attributes:
        data: encoded bytes, or (H, W, 3) uint8 pixels.
        key: names the record in errors.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        orientation: EXIF orientation 1 to 8; 1 is upright as stored.
    """

    data: bytes | np.ndarray
    key: str
    width: int
    height: int
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) without the EXIF orientation."""
        sideways = self.orientation in _TURNS_SIDEWAYS
        return (self.height, self.width) if sideways else (self.width, self.height)

    @property
    def image(self) -> Image.Image:
        """All of it, RGB, upright, decoded anew.  Raises BadRecord where the file is damaged."""
        return self._decode(None)[0]

    def resized(self, crop_xyxy: BoxXYXY, size_hw: tuple[int, int], *, fast: bool = False) -> Image.Image:
        """A part of the image, bicubically resized to `size_hw`; crop and resize are one operation.

        Args:
            crop_xyxy: in pixels of the upright image, within it.
            fast: decode JPEG at the smallest of 1/8, 1/4, 1/2, 1/1 that still has the wanted
                resolution, and shrink large images by whole factors first.  Pixels then differ by a
                few grey levels from those of a full decode.
        Raises:
            BadRecord: the file is truncated or damaged.
        """
        x0, y0, x1, y1 = crop_xyxy
        height, width = size_hw
        at_least = (self.width * width / (x1 - x0), self.height * height / (y1 - y0)) if fast else None
        image, extent = self._decode(at_least)
        scale_x, scale_y = (extent[2] - extent[0]) / self.width, (extent[3] - extent[1]) / self.height
        box = (
            max(0.0, extent[0] + x0 * scale_x),
            max(0.0, extent[1] + y0 * scale_y),
            min(float(image.width), extent[0] + x1 * scale_x),
            min(float(image.height), extent[1] + y1 * scale_y),
        )
        gap = 3.0 if fast else None
        return image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=gap)

    def _decode(self, at_least: tuple[float, float] | None) -> tuple[Image.Image, BoxXYXY]:
        """Upright RGB, and where in it the picture lies: a reduced JPEG's last row and column are partial."""
        if isinstance(self.data, np.ndarray):
            return Image.fromarray(self.data), (0.0, 0.0, float(self.width), float(self.height))
        try:
            stored = Image.open(io.BytesIO(self.data), formats=FORMATS)
            extent: BoxXYXY = (0.0, 0.0, *map(float, stored.size))  # type: ignore[assignment]
            if at_least and stored.format == "JPEG":
                wanted = at_least[::-1] if self.orientation in _TURNS_SIDEWAYS else at_least
                drafted = stored.draft(stored.mode, (max(1, int(wanted[0])), max(1, int(wanted[1]))))
                extent = tuple(map(float, drafted[1])) if drafted else extent  # type: ignore[assignment]
            rgb = to_rgb(stored)
            late_turn = _orientation(stored) not in (1, self.orientation)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise almost any type on damaged files
            raise BadRecord("image does not decode", self.key, f"{type(error).__name__}: {error}") from error
        if late_turn:
            raise BadRecord("image does not decode", self.key, "EXIF orientation behind the pixels")
        if self.orientation == 1:
            return rgb, extent
        return rgb.transpose(_TURNS[self.orientation]), turn_box(extent, *rgb.size, self.orientation)


def open_image(image: ImageData, *, key: str, max_pixels: int | None = None) -> Opened:
    """Read an image's header; pixels are decoded later, when their crop and size are known.

    Raises:
        BadRecord: "image file missing", "image file unreadable", "image does not decode" (not one of
            `FORMATS`, or an array of another shape), "image too large" (more than `max_pixels`, found
            before memory for them is taken).
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            found = f"array {image.shape} {image.dtype}, expected (H, W, 3) uint8"
            raise BadRecord("image does not decode", key, found)
        _check_pixels(image.shape[1], image.shape[0], key, max_pixels)
        return Opened(image, key, image.shape[1], image.shape[0])
    data = image if isinstance(image, bytes) else _read_file(image, key)
    try:
        stored = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadRecord("image too large", key, str(error)) from error
    except Image.UnidentifiedImageError as error:
        found = f"{len(data)} bytes that are none of {', '.join(FORMATS)}"
        raise BadRecord("image does not decode", key, found) from error
    except Exception as error:  # Pillow's parsers raise almost any type on damaged headers
        raise BadRecord("image does not decode", key, f"{type(error).__name__}: {error}") from error
    width, height = stored.size
    _check_pixels(width, height, key, max_pixels)
    try:
        orientation = _orientation(stored)
    except Exception as error:  # likewise for EXIF blocks
        raise BadRecord("image does not decode", key, f"EXIF: {type(error).__name__}: {error}") from error
    if orientation in _TURNS_SIDEWAYS:
        width, height = height, width
    return Opened(data, key, width, height, orientation)


def turn_box(box_xyxy: BoxXYXY, width: float, height: float, orientation: int) -> BoxXYXY:
    """A box on the stored `width` x `height` image -> the same pixels' box on the upright image."""
    x0, y0, x1, y1 = box_xyxy
    right, bottom = (width - x1, width - x0), (height - y1, height - y0)  # counted from the other edge
    turned = {
        1: (x0, y0, x1, y1),
        2: (right[0], y0, right[1], y1),
        3: (right[0], bottom[0], right[1], bottom[1]),
        4: (x0, bottom[0], x1, bottom[1]),
        5: (y0, x0, y1, x1),
        6: (bottom[0], x0, bottom[1], x1),
        7: (bottom[0], right[0], bottom[1], right[1]),
        8: (y0, right[0], y1, right[1]),
    }
    return turned[orientation]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> 8-bit RGB.  Transparent parts show white; 16-bit values are scaled from their full range.

    Raises:
        InputError: float or 32-bit pixels whose range is not known.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    full = 1.0 if pixels.dtype.kind == "f" else 65535
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= full):  # also true for NaN
        raise InputError(f"{pixels.dtype} pixels from {low} to {high}; only 0 to {full} has a known meaning")
    return np.round(pixels * (255 / full)).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF itself, in the header's size already
    # not PngImageFile.getexif, which decodes the pixels first
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in _TURNS else 1


def _check_pixels(width: int, height: int, key: str, max_pixels: int | None) -> None:
    max_pixels = current().max_pixels if max_pixels is None else max_pixels
    if width * height > max_pixels:
        raise BadRecord("image too large", key, f"{width} x {height}, at most {max_pixels:,} pixels allowed")


def _read_file(path: str, key: str) -> bytes:
    try:
        return files.read_all(path)
    except FileNotFoundError as error:
        raise BadRecord("image file missing", key, path) from error
    except OSError as error:
        raise BadRecord("image file unreadable", key, f"{path}: {error}") from error
    except ValueError as error:  # a null byte in the path; an unknown protocol in a URL
        raise BadRecord("image file unreadable", key, f"{path!r}: {error}") from error
