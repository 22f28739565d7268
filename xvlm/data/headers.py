"""What an encoded image claims, checked before a decoder believes it.

Pillow's parsers copy the content of every tag, and libjpeg decodes every scan: a file of one megabyte can ask
for gigabytes and minutes.  Each check raises `Refused` with what was found and what is allowed.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

from xvlm.data.modes import stored_bytes

MAX_SIDE = 1_000_000
MAX_SCANS = 100
SCANS_AT_MAX_PIXELS = 30
BYTES_A_PIXEL = 14
"""Memory that decoding may take, for each of `max_pixels`."""
MAX_SLOW_PIXELS = 4_000_000

_TIFF_HEADER = re.compile(rb"II\*\0|MM\0\*")
_UNIT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MAX_DIRECTORIES = 16
_MAX_ENTRIES = 4096
_MAX_VALUES = 2**21  # of one tag of numbers, such as the offsets of strips
_INNER_TAGS = {34665, 34853, 40965}  # EXIF, GPS, interoperability
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_DEEPEST_COPIES = {"WEBP": 16, "AVIF": 12, "HEIF": 12, "JPEG2000": 20, "TIFF": 12}
"""Formats whose decoders hold the image a second time, or in a wider type: bytes a pixel at the peak."""


class Refused(ValueError):
    """A header that asks for too much time or memory."""


class TooLarge(Refused):
    """The size is what asks for it."""


def check_encoded(data: bytes) -> int:
    """Check what can be seen without a parser of Pillow's; returns the number of scans of a JPEG, else 0."""
    if data.startswith(b"\xff\xd8"):
        scans, exif = _read_jpeg(data)
        check_tags(exif)
        return scans
    check_tags(data)
    if data[4:8] == b"ftyp":  # AVIF and HEIC, in which EXIF may stand anywhere
        for number, found in enumerate(_TIFF_HEADER.finditer(data)):
            if number == _MAX_DIRECTORIES:
                raise Refused(f"more than {_MAX_DIRECTORIES} blocks of tags")
            check_tags(data, found.start())
    return 0


def check_tags(data: bytes, start: int = 0) -> None:
    """Check the tags of TIFF or EXIF data: together they may not be much larger than the data."""
    if data[start : start + 6] == b"Exif\0\0":
        start += 6
    if not _TIFF_HEADER.match(data, start):
        return
    order = "<" if data[start : start + 1] == b"I" else ">"
    content_bytes, directories, seen = 0, [_number(data, start + 4, order, "I")], set()
    while directories:
        offset = directories.pop()
        if offset in seen:
            continue
        seen.add(offset)
        entries = _number(data, start + offset, order, "H")
        if entries > _MAX_ENTRIES:
            raise Refused(f"{entries:,} tags in one block, at most {_MAX_ENTRIES:,} are read")
        for entry in range(entries):
            at = start + offset + 2 + 12 * entry
            if at + 12 > len(data):
                break
            tag, kind, count, value = struct.unpack_from(f"{order}HHII", data, at)
            size = count * _UNIT_BYTES.get(kind, 1)
            if tag in _INNER_TAGS and len(seen) < _MAX_DIRECTORIES:
                directories.append(value)
            if size > 4 and start + value + size <= len(data):
                content_bytes += size
                if count > _MAX_VALUES and kind not in (1, 2, 6, 7):
                    raise Refused(f"tag {tag} holds {count:,} numbers, at most {_MAX_VALUES:,} are read")
    if content_bytes > 2 * len(data) + 65536:
        raise Refused(f"its tags claim {content_bytes:,} bytes, the file has {len(data):,}")


def _number(data: bytes, at: int, order: str, kind: str) -> int:
    size = struct.calcsize(kind)
    return int(struct.unpack_from(order + kind, data, at)[0]) if at + size <= len(data) else 0


def _read_jpeg(data: bytes) -> tuple[int, bytes]:
    """(number of scans, EXIF data of the segments before the first one) of a JPEG."""
    scans, exif, position = 0, b"", 2
    while scans <= MAX_SCANS and (found := _JPEG_MARKER.search(data, position)):
        kind, position = found[1][0], found.end()
        if kind == 0xD9:  # end of image
            break
        if kind in (0x01, 0xD8):  # markers without content
            continue
        size = _number(data, position, ">", "H")
        if kind == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif += data[position + 8 : position + size]
        position += max(size, 2)
        if kind == 0xDA:
            scans += 1
            # Straight to the next scan: looking at each coded byte takes as long as decoding it.
            position = data.find(b"\xff\xda", position)
            if position < 0:
                break
    return scans, exif


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise TooLarge for an image of more pixels, or with a longer side, than is allowed."""
    if width * height > max_pixels:
        raise TooLarge(f"{width} x {height}, at most {max_pixels:,} pixels allowed; --max-pixels allows more")
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"{width} x {height}, at most {MAX_SIDE:,} pixels a side allowed")


def check_opened(image: Image.Image, scans: int, max_pixels: int) -> None:
    """Check the header that Pillow has read: size, and what its decoder will need.

    Raises Refused, TooLarge.
    """
    width, height = image.size
    pixels = width * height
    check_size(width, height, max_pixels)
    needed = pixels * _bytes_a_pixel(image)
    if needed > BYTES_A_PIXEL * max_pixels:
        raise TooLarge(
            f"{width} x {height} {image.format} of mode {image.mode} needs {needed:,} bytes of memory,"
            f" at most {BYTES_A_PIXEL} for each of {max_pixels:,} pixels allowed; --max-pixels allows more"
        )
    if scans > MAX_SCANS or scans * pixels > SCANS_AT_MAX_PIXELS * max_pixels:
        most = min(MAX_SCANS, SCANS_AT_MAX_PIXELS * max_pixels // pixels)
        found = f"more than {MAX_SCANS}" if scans > MAX_SCANS else str(scans)
        raise Refused(f"{found} scans of {width} x {height} pixels, at most {most} allowed")
    if _is_slow(image) and pixels > MAX_SLOW_PIXELS:
        raise Refused(
            f"{width} x {height} pixels in a form of {image.format} that decodes slowly, at most "
            f"{MAX_SLOW_PIXELS:,} pixels allowed"
        )
    _check_tile(image, max_pixels)


def _bytes_a_pixel(image: Image.Image) -> int:
    """Peak of the pixels, the decoder's own copy, and the RGB or turned copy that is made of them."""
    if image.format in _DEEPEST_COPIES:
        return max(_DEEPEST_COPIES[image.format], 16 if stored_bytes(image) else 0)
    if image.format in ("JPEG", "MPO"):
        channels = len(image.getbands())
        return (8 if channels == 4 else 4) + 4 + (2 * channels if image.info.get("progressive") else 0)
    return 16 if stored_bytes(image) else 9


def _is_slow(image: Image.Image) -> bool:
    """Netpbm in text, or with a maximum other than 255 and 65535, is decoded by a loop in Python."""
    return any(tile[0] in ("ppm", "ppm_plain") for tile in getattr(image, "tile", ()))


def _check_tile(image: Image.Image, max_pixels: int) -> None:
    """A TIFF decodes whole tiles, however small the image is."""
    tags = getattr(image, "tag_v2", {})
    tile_pixels = int(tags.get(322, 0)) * int(tags.get(323, 0))
    if tile_pixels > max(max_pixels, 2**20):
        raise TooLarge(f"tiles of {tile_pixels:,} pixels, at most {max_pixels:,} allowed")
