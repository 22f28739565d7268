"""Decode images from paths, bytes or arrays to upright 8-bit RGB; headers are checked before decoding.

The *stored* image is the image in the file; the *upright* image has the EXIF orientation applied.  Width,
height and boxes always refer to the upright image at full resolution, even where it is decoded smaller.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import ExifTags, Image

from xvlm.common.errors import MissingPackageError
from xvlm.data.files import storage
from xvlm.data.files.limits import current_limits
from xvlm.data.images import headers
from xvlm.data.images import pixel_modes as modes
from xvlm.records import BadRecord, BoxXYXY, ImageData

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats whose decoders are written in C and start no other program.  Only the first frame is decoded."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_TRANSPOSE = {  # EXIF orientation -> operation that makes the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageFile:
    """An image whose header has been read and accepted.

    Attributes:
        data: encoded bytes, or (height, width, 3) uint8 pixels.
        key: name of the record in errors.
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright as stored.
        format: Pillow's name of the format; empty for an array.
    """

    data: bytes | np.ndarray
    key: str
    width: int
    height: int
    orientation: int = 1
    format: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) without the EXIF orientation."""
        return (self.height, self.width) if self.orientation in _SIDEWAYS else (self.width, self.height)

    @property
    def image(self) -> Image.Image:
        """The full upright RGB image, decoded on every access.  Raises BadRecord if the file is damaged."""
        return self._decode(None)[0]

    def resized(self, crop_xyxy: BoxXYXY, size_hw: tuple[int, int], *, fast: bool = False) -> Image.Image:
        """Return a crop of the image, bicubically resized to `size_hw` in the same operation.

        Args:
            crop_xyxy: crop in pixels of the upright image, within it.
            size_hw: (height, width) of the result in pixels.
            fast: decode JPEG at the smallest of 1/8, 1/4, 1/2, 1/1 that still has the wanted resolution, and
                shrink large images by integer factors first.  Pixels then differ by some grey levels from
                those of a full decode.
        Raises:
            BadRecord: the file is truncated or damaged.
        """
        x0, y0, x1, y1 = crop_xyxy
        height, width = size_hw
        min_size = (self.width * width / (x1 - x0), self.height * height / (y1 - y0)) if fast else None
        image, extent = self._decode(min_size)
        scale_x, scale_y = (extent[2] - extent[0]) / self.width, (extent[3] - extent[1]) / self.height
        box = (
            max(0.0, extent[0] + x0 * scale_x),
            max(0.0, extent[1] + y0 * scale_y),
            min(float(image.width), extent[0] + x1 * scale_x),
            min(float(image.height), extent[1] + y1 * scale_y),
        )
        gap = 3.0 if fast else None
        return image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=gap)

    def _restore_low_bits(self, stored: Image.Image) -> Image.Image:
        """Return the stored image; 16-bit colours that use only their lower bits are decoded with them."""
        if not modes.raw_mode_16_bit(stored):
            return stored
        stored.load()
        if not modes.needs_low_bytes(stored):
            return stored
        low = open_pillow(self.data)  # type: ignore[arg-type]
        modes.decode_low_bytes(low)
        low.load()
        return modes.join_bytes(stored, low)

    def _decode(self, min_size: tuple[float, float] | None) -> tuple[Image.Image, BoxXYXY]:
        """Return the upright RGB image, and the box in it that the picture covers.

        A JPEG may be reduced down to `min_size`, (width, height); its last row and column may be partial.
        """
        if isinstance(self.data, np.ndarray):
            return Image.fromarray(self.data), (0.0, 0.0, float(self.width), float(self.height))
        try:
            stored = open_pillow(self.data)
            extent: BoxXYXY = (0.0, 0.0, *map(float, stored.size))  # type: ignore[assignment]
            if min_size and stored.format in ("JPEG", "MPO"):
                stored_min = min_size[::-1] if self.orientation in _SIDEWAYS else min_size
                drafted = stored.draft(stored.mode, (max(1, int(stored_min[0])), max(1, int(stored_min[1]))))
                extent = tuple(map(float, drafted[1])) if drafted else extent  # type: ignore[assignment]
            rgb = modes.to_rgb(self._restore_low_bits(stored))
            late_orientation = _orientation(stored) not in (1, self.orientation)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise almost any type on damaged files
            raise BadRecord("image does not decode", self.key, f"{type(error).__name__}: {error}") from error
        del stored
        if late_orientation:
            raise BadRecord("image does not decode", self.key, "EXIF orientation behind the pixels")
        if self.orientation == 1:
            return rgb, extent
        return rgb.transpose(_TRANSPOSE[self.orientation]), orient_box(extent, *rgb.size, self.orientation)


def open_image(
    image: ImageData, *, key: str, max_pixels: int | None = None, trusted: bool = False
) -> ImageFile:
    """Read the header of an image; pixels are decoded later, when their crop and size are known.

    Args:
        image: path, URL, encoded bytes, or a (height, width, 3) uint8 array.
        key: name of the record in errors.
        max_pixels: largest number of pixels; by default that of the limits.
        trusted: the user typed the path or URL, so a URL may lead to a private address.
    Raises:
        BadRecord: "image file missing"; "image file unreadable"; "image does not decode" (none of the formats
            that are read, or an array of another shape); "image too large" (more than `max_pixels`, or more
            memory or time than they would need; this is found before memory is allocated).
    """
    max_pixels = current_limits().max_pixels if max_pixels is None else max_pixels
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            detail = f"array {image.shape} {image.dtype}, expected (height, width, 3) uint8"
            raise BadRecord("image does not decode", key, detail)
        check_size(image.shape[1], image.shape[0], key, max_pixels)
        return ImageFile(image, key, image.shape[1], image.shape[0])
    data = image if isinstance(image, bytes) else read_encoded(image, key, trusted)
    try:
        scans = headers.check_encoded(data)
        stored = open_pillow(data)
        headers.check_opened(stored, scans, max_pixels)
        orientation = _orientation(stored)
    except headers.ImageTooLarge as error:
        raise BadRecord("image too large", key, str(error)) from error
    except headers.RefusedHeader as error:
        raise BadRecord("image does not decode", key, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise BadRecord("image does not decode", key, _unknown_format(data)) from error
    except Exception as error:  # Pillow's parsers raise almost any type on damaged headers
        raise BadRecord("image does not decode", key, f"{type(error).__name__}: {error}") from error
    width, height = stored.size
    if orientation in _SIDEWAYS:
        width, height = height, width
    return ImageFile(data, key, width, height, orientation, stored.format or "")


def check_size(width: int, height: int, key: str, max_pixels: int | None = None) -> None:
    """Raise BadRecord if an image has more pixels than `max_pixels`, by default that of the limits."""
    max_pixels = current_limits().max_pixels if max_pixels is None else max_pixels
    try:
        headers.check_size(width, height, max_pixels)
    except headers.ImageTooLarge as error:
        raise BadRecord("image too large", key, str(error)) from error


def open_pillow(data: bytes) -> Image.Image:
    """Read the header of an image with one of the trusted decoders; Pillow's own pixel limit is off."""
    with _no_pillow_limit():
        return Image.open(io.BytesIO(data), formats=readable_formats(data[:64]))


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Context without Pillow's pixel limit, which is global; `Limits` is checked instead."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def readable_formats(head: bytes) -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed Pillow has, and HEIC if the file begins as HEIC."""
    return _pillow_formats() + (("HEIF",) if _is_heic(head) and _register_heic() else ())


@cache
def _pillow_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_heic(head: bytes) -> bool:
    brands = head[8:64] if head[4:8] == b"ftyp" else b""
    return b"avif" not in brands and any(brand in brands for brand in _HEIC_BRANDS)


@cache
def _register_heic() -> bool:
    """Register Pillow's opener for HEIC; return whether its package is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _unknown_format(data: bytes) -> str:
    if _is_heic(data[:64]) and not _register_heic():
        return "HEIC, which needs the package pillow-heif: pip install 'xvlm[heic]'"
    return f"{len(data):,} bytes that are none of {', '.join(readable_formats(data[:64]))}"


def orient_box(box_xyxy: BoxXYXY, width: float, height: float, orientation: int) -> BoxXYXY:
    """Convert a box on the stored `width` x `height` image to the box on the upright image."""
    x0, y0, x1, y1 = box_xyxy
    right, bottom = (width - x1, width - x0), (height - y1, height - y0)  # from the opposite edge
    oriented = {
        1: (x0, y0, x1, y1),
        2: (right[0], y0, right[1], y1),
        3: (right[0], bottom[0], right[1], bottom[1]),
        4: (x0, bottom[0], x1, bottom[1]),
        5: (y0, x0, y1, x1),
        6: (bottom[0], x0, bottom[1], x1),
        7: (bottom[0], right[0], bottom[1], right[1]),
        8: (y0, right[0], y1, right[1]),
    }
    return oriented[orientation]


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow applies the orientation of TIFF itself, also to the size in the header
    _check_exif(image)
    # PngImageFile.getexif would decode the pixels first.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TRANSPOSE else 1


def _check_exif(image: Image.Image) -> None:
    """Check EXIF before Pillow parses it, also where PNG stores it as text."""
    headers.check_tags(image.info.get("exif") or b"")
    if raw := image.info.get("Raw profile type exif"):
        headers.check_tags(bytes.fromhex("".join(raw.split("\n")[3:])))


def read_encoded(path: str, key: str, trusted: bool = False) -> bytes:
    """Read the file of an image.  Raises BadRecord if it is missing, unreadable or too large."""
    try:
        return storage.read_image(path, trusted)
    except FileNotFoundError as error:
        raise BadRecord("image file missing", key, path) from error
    except MissingPackageError as error:
        raise BadRecord("image needs a package that is not installed", key, str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, an unknown protocol
        raise BadRecord("image file unreadable", key, str(error)) from error
