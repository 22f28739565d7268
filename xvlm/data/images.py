"""Images from paths, bytes or arrays to upright 8-bit RGB; the header is checked before anything is decoded.

*Stored* is the image as the file holds it, *upright* is after its EXIF orientation.  Width, height and
boxes always speak of the upright image at full resolution, even where it is decoded smaller.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import ExifTags, Image

from xvlm.data import files, headers
from xvlm.data.limits import current
from xvlm.data.modes import join_bytes, stored_bytes, to_rgb, uses_low_bytes
from xvlm.errors import MissingPackageError
from xvlm.records import BadRecord, BoxXYXY, ImageData

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that are read: decoders in C that start no other program.  Of several frames, or
pictures of one JPEG (MPO), the first is taken."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

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

    def _all_bits(self, stored: Image.Image) -> Image.Image:
        """The image itself, or, where only lower bits of its 16-bit colours are used, those scaled."""
        if not stored_bytes(stored):
            return stored
        stored.load()
        if not uses_low_bytes(stored):
            return stored
        low = open_pillow(self.data)  # type: ignore[arg-type]
        stored_bytes(low, low=True)
        low.load()
        return join_bytes(stored, low)

    def _decode(self, at_least: tuple[float, float] | None) -> tuple[Image.Image, BoxXYXY]:
        """Upright RGB, and where in it the picture lies: a reduced JPEG's last row and column are partial."""
        if isinstance(self.data, np.ndarray):
            return Image.fromarray(self.data), (0.0, 0.0, float(self.width), float(self.height))
        try:
            stored = open_pillow(self.data)
            extent: BoxXYXY = (0.0, 0.0, *map(float, stored.size))  # type: ignore[assignment]
            if at_least and stored.format in ("JPEG", "MPO"):
                wanted = at_least[::-1] if self.orientation in _TURNS_SIDEWAYS else at_least
                drafted = stored.draft(stored.mode, (max(1, int(wanted[0])), max(1, int(wanted[1]))))
                extent = tuple(map(float, drafted[1])) if drafted else extent  # type: ignore[assignment]
            rgb = to_rgb(self._all_bits(stored))
            late_turn = _orientation(stored) not in (1, self.orientation)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise almost any type on damaged files
            raise BadRecord("image does not decode", self.key, f"{type(error).__name__}: {error}") from error
        del stored
        if late_turn:
            raise BadRecord("image does not decode", self.key, "EXIF orientation behind the pixels")
        if self.orientation == 1:
            return rgb, extent
        return rgb.transpose(_TURNS[self.orientation]), turn_box(extent, *rgb.size, self.orientation)


def open_image(image: ImageData, *, key: str, max_pixels: int | None = None, trusted: bool = False) -> Opened:
    """Read an image's header; pixels are decoded later, when their crop and size are known.

    Args:
        image: of an array (H, W, 3), values are uint8.
        max_pixels: by default that of `limits.current()`.
        trusted: a person typed the path or URL, so that a URL may lead to a private address.
    Raises:
        BadRecord: "image file missing", "image file unreadable", "image does not decode" (none of the formats
            that are read, or an array of another shape), "image too large" (more than `max_pixels`, or more
            memory or time than they would need; found before it is taken).
    """
    max_pixels = current().max_pixels if max_pixels is None else max_pixels
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            found = f"array {image.shape} {image.dtype}, expected (H, W, 3) uint8"
            raise BadRecord("image does not decode", key, found)
        check_size(image.shape[1], image.shape[0], key, max_pixels)
        return Opened(image, key, image.shape[1], image.shape[0])
    data = image if isinstance(image, bytes) else _read_file(image, key, trusted)
    try:
        scans = headers.check_encoded(data)
        stored = open_pillow(data)
        headers.check_opened(stored, scans, max_pixels)
        orientation = _orientation(stored)
    except headers.TooLarge as error:
        raise BadRecord("image too large", key, str(error)) from error
    except headers.Refused as error:
        raise BadRecord("image does not decode", key, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise BadRecord("image does not decode", key, _unknown_format(data)) from error
    except Exception as error:  # Pillow's parsers raise almost any type on damaged headers
        raise BadRecord("image does not decode", key, f"{type(error).__name__}: {error}") from error
    width, height = stored.size
    if orientation in _TURNS_SIDEWAYS:
        width, height = height, width
    return Opened(data, key, width, height, orientation)


def check_size(width: int, height: int, key: str, max_pixels: int | None = None) -> None:
    """Raise BadRecord if an image of this size has more than `max_pixels`, by default the limits' number."""
    max_pixels = current().max_pixels if max_pixels is None else max_pixels
    try:
        headers.check_size(width, height, max_pixels)
    except headers.TooLarge as error:
        raise BadRecord("image too large", key, str(error)) from error


def open_pillow(data: bytes) -> Image.Image:
    """An image of which the header is read, by a decoder that is trusted; Pillow's limit is off."""
    with _no_pillow_limit():
        return Image.open(io.BytesIO(data), formats=readable_formats(data[:64]))


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Sizes are checked here, by `Limits`; Pillow's own limit is one for the whole program."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def readable_formats(start: bytes) -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow has, and HEIC where a file starts so."""
    return _pillow_formats() + (("HEIF",) if _is_heic(start) and _heic_opener() else ())


@cache
def _pillow_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_heic(start: bytes) -> bool:
    brands = start[8:64] if start[4:8] == b"ftyp" else b""
    return b"avif" not in brands and any(brand in brands for brand in _HEIC_BRANDS)


@cache
def _heic_opener() -> bool:
    """Register Pillow's opener for HEIC; false without the package."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _unknown_format(data: bytes) -> str:
    if _is_heic(data[:64]) and not _heic_opener():
        return "HEIC, which needs the package pillow-heif: pip install 'xvlm[heic]'"
    return f"{len(data):,} bytes that are none of {', '.join(readable_formats(data[:64]))}"


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


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF itself, in the header's size already
    _check_exif(image)
    # not PngImageFile.getexif, which decodes the pixels first
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in _TURNS else 1


def _check_exif(image: Image.Image) -> None:
    """Check EXIF before Pillow parses it, also where PNG keeps it as text."""
    headers.check_tags(image.info.get("exif") or b"")
    if raw := image.info.get("Raw profile type exif"):
        headers.check_tags(bytes.fromhex("".join(raw.split("\n")[3:])))


def _read_file(path: str, key: str, trusted: bool) -> bytes:
    try:
        return files.read_image(path, trusted)
    except FileNotFoundError as error:
        raise BadRecord("image file missing", key, path) from error
    except MissingPackageError as error:
        raise BadRecord("image needs a package that is not installed", key, str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, an unknown protocol
        raise BadRecord("image file unreadable", key, str(error)) from error
