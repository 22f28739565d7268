"""Check what the header of an encoded image claims, before any decoder acts on it.

Pillow's parsers copy the content of every tag, and libjpeg decodes every scan, so a file of one megabyte can
claim gigabytes and minutes.  Each check raises `RefusedHeader` with the value and what is allowed.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

from xvlm.data.images.pixel_modes import raw_mode_16_bit

MAX_SIDE = 1_000_000
MAX_SCANS = 100
SCANS_AT_MAX_PIXELS = 30
BYTES_PER_PIXEL = 14
"""Memory that decoding may use for each of `max_pixels`."""
MAX_SLOW_PIXELS = 4_000_000

_TIFF_HEADER = re.compile(rb"II\*\0|MM\0\*")
_UNIT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MAX_DIRECTORIES = 16
_MAX_ENTRIES = 4096
_MAX_VALUES = 2**21  # in one tag of numbers, such as the offsets of strips
_INNER_TAGS = {34665, 34853, 40965}  # EXIF, GPS, interoperability
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_COPY_BYTES = {"WEBP": 16, "AVIF": 12, "HEIF": 12, "JPEG2000": 20, "TIFF": 12}
"""Peak bytes per pixel of formats whose decoders hold a second copy of the image, or a wider type."""


class RefusedHeader(ValueError):
    """A header that claims too much time or memory."""


class ImageTooLarge(RefusedHeader):
    """A header whose image size claims too much memory."""


def check_encoded(data: bytes) -> int:
    """Check what can be seen without Pillow's parsers; return the number of scans of a JPEG, else 0."""
    if data.startswith(b"\xff\xd8"):
        scans, exif = _read_jpeg(data)
        check_tags(exif)
        return scans
    check_tags(data)
    if data[4:8] == b"ftyp":  # AVIF and HEIC, which may hold EXIF anywhere
        for number, header in enumerate(_TIFF_HEADER.finditer(data)):
            if number == _MAX_DIRECTORIES:
                raise RefusedHeader(f"more than {_MAX_DIRECTORIES} blocks of tags")
            check_tags(data, header.start())
    return 0


def check_tags(data: bytes, start: int = 0) -> None:
    """Check the tags of TIFF or EXIF data: their total size may not be much larger than the data."""
    if data[start : start + 6] == b"Exif\0\0":
        start += 6
    if not _TIFF_HEADER.match(data, start):
        return
    order = "<" if data[start : start + 1] == b"I" else ">"
    content_bytes, directories, visited = 0, [_read_number(data, start + 4, order, "I")], set()
    while directories:
        offset = directories.pop()
        if offset in visited:
            continue
        visited.add(offset)
        entries = _read_number(data, start + offset, order, "H")
        if entries > _MAX_ENTRIES:
            raise RefusedHeader(f"{entries:,} tags in one block, at most {_MAX_ENTRIES:,} are read")
        for entry in range(entries):
            position = start + offset + 2 + 12 * entry
            if position + 12 > len(data):
                break
            tag, kind, count, value = struct.unpack_from(f"{order}HHII", data, position)
            size = count * _UNIT_BYTES.get(kind, 1)
            if tag in _INNER_TAGS and len(visited) < _MAX_DIRECTORIES:
                directories.append(value)
            if size > 4 and start + value + size <= len(data):
                content_bytes += size
                if count > _MAX_VALUES and kind not in (1, 2, 6, 7):
                    raise RefusedHeader(
                        f"tag {tag} holds {count:,} numbers, at most {_MAX_VALUES:,} are read"
                    )
    if content_bytes > 2 * len(data) + 65536:
        raise RefusedHeader(f"its tags claim {content_bytes:,} bytes, the file has {len(data):,}")


def _read_number(data: bytes, position: int, order: str, kind: str) -> int:
    size = struct.calcsize(kind)
    return int(struct.unpack_from(order + kind, data, position)[0]) if position + size <= len(data) else 0


def _read_jpeg(data: bytes) -> tuple[int, bytes]:
    """Return (number of scans, EXIF data of the segments before the first scan) of a JPEG."""
    scans, exif, position = 0, b"", 2
    while scans <= MAX_SCANS and (marker := _JPEG_MARKER.search(data, position)):
        kind, position = marker[1][0], marker.end()
        if kind == 0xD9:  # end of image
            break
        if kind in (0x01, 0xD8):  # markers without content
            continue
        size = _read_number(data, position, ">", "H")
        if kind == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif += data[position + 8 : position + size]
        position += max(size, 2)
        if kind == 0xDA:
            scans += 1
            # The search jumps to the next scan: matching every coded byte takes as long as decoding.
            position = data.find(b"\xff\xda", position)
            if position < 0:
                break
    return scans, exif


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageTooLarge if an image has more pixels or a longer side than allowed."""
    if width * height > max_pixels:
        allowed = f"at most {max_pixels:,} pixels allowed; --max-pixels allows more"
        raise ImageTooLarge(f"{width} x {height}, {allowed}")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"{width} x {height}, at most {MAX_SIDE:,} pixels per side allowed")


def check_opened(image: Image.Image, scans: int, max_pixels: int) -> None:
    """Check the header that Pillow has read: the size, and the time and memory of decoding.

    Raises RefusedHeader, ImageTooLarge.
    """
    width, height = image.size
    pixels = width * height
    check_size(width, height, max_pixels)
    needed = pixels * _peak_bytes_per_pixel(image)
    if needed > BYTES_PER_PIXEL * max_pixels:
        raise ImageTooLarge(
            f"{width} x {height} {image.format} of mode {image.mode} needs {needed:,} bytes of memory,"
            f" at most {BYTES_PER_PIXEL} for each of {max_pixels:,} pixels allowed; --max-pixels allows more"
        )
    if scans > MAX_SCANS or scans * pixels > SCANS_AT_MAX_PIXELS * max_pixels:
        allowed = min(MAX_SCANS, SCANS_AT_MAX_PIXELS * max_pixels // pixels)
        count = f"more than {MAX_SCANS}" if scans > MAX_SCANS else str(scans)
        raise RefusedHeader(f"{count} scans of {width} x {height} pixels, at most {allowed} allowed")
    if _decodes_slowly(image) and pixels > MAX_SLOW_PIXELS:
        raise RefusedHeader(
            f"{width} x {height} pixels in a variant of {image.format} that decodes slowly, at most "
            f"{MAX_SLOW_PIXELS:,} pixels allowed"
        )
    _check_tile(image, max_pixels)


def _peak_bytes_per_pixel(image: Image.Image) -> int:
    """Return the peak memory of the pixels, the decoder's own copy, and the RGB or transposed copy."""
    if image.format in _COPY_BYTES:
        return max(_COPY_BYTES[image.format], 16 if raw_mode_16_bit(image) else 0)
    if image.format in ("JPEG", "MPO"):
        channels = len(image.getbands())
        return (8 if channels == 4 else 4) + 4 + (2 * channels if image.info.get("progressive") else 0)
    return 16 if raw_mode_16_bit(image) else 9


def _decodes_slowly(image: Image.Image) -> bool:
    """Return whether Pillow decodes by a loop in Python: Netpbm as text, or with an unusual maximum."""
    return any(tile[0] in ("ppm", "ppm_plain") for tile in getattr(image, "tile", ()))


def _check_tile(image: Image.Image, max_pixels: int) -> None:
    """Check the tiles of a TIFF, which are decoded as a whole however small the image is."""
    tags = getattr(image, "tag_v2", {})
    tile_pixels = int(tags.get(322, 0)) * int(tags.get(323, 0))
    if tile_pixels > max(max_pixels, 2**20):
        raise ImageTooLarge(f"tiles of {tile_pixels:,} pixels, at most {max_pixels:,} allowed")
