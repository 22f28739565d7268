"""Small images, files and shards for the tests of this room."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xvlm.records import BadRecord

ORIENTATION = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image of smooth colours, which JPEG and resizing change little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", orientation: int = 1, **options: Any) -> bytes:
    """Return the image as a file; `orientation` goes into EXIF, and the pixels are stored unchanged."""
    if orientation != 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    if format == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def painted(width: int, height: int, box_xyxy: tuple[int, int, int, int]) -> Image.Image:
    """Return an image of a red box on dark green."""
    image = Image.new("RGB", (width, height), (0, 60, 0))
    image.paste((255, 0, 0), box_xyxy)
    return image


def png(width: int, height: int, bits: int, colour: int, compressed: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG with this header and these compressed rows; `extra` is the kind and data of a chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    more = chunk(extra[:4], extra[4:]) if extra else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more
    return start + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds hardly any pixels."""
    return png(width, height, 8, 2, zlib.compress(b"\0" * 100))


def write_lines(path: Path, objects: Iterable[Any]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in objects), encoding="utf-8")
    return str(path)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def bad_record(read: Callable[..., Any], *arguments: Any, **options: Any) -> BadRecord:
    """Return the BadRecord that a call raises."""
    with pytest.raises(BadRecord) as caught:
        read(*arguments, **options)
    return caught.value
