"""Small files that claim gigabytes or minutes are bad records at once; large correct ones are read."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.data import make
from xvlm.data.files.limits import temporary_limits
from xvlm.data.images.decode import open_image
from xvlm.data.images.headers import MAX_SCANS
from xvlm.records import BadRecord

SECONDS = 3.0
"""Time limit of a refusal, which usually takes milliseconds."""


def _refused(image: bytes | str) -> BadRecord:
    start = time.monotonic()
    error = make.bad_record(open_image, image, key="k")
    assert time.monotonic() - start < SECONDS
    return error


def _png(width: int, height: int, colour: int = 0, extra: bytes = b"") -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[colour]
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + width * channels)) for _ in range(height)) + packer.flush()
    return make.png(width, height, 8, colour, rows, extra)


def _jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * (scans - data.count(b"\xff\xda")) + data[end:]


def _exif_bomb(entries: int, size: int) -> bytes:
    """Return TIFF data whose tags all claim the same bytes."""
    directory = b"".join(struct.pack("<HHII", 0x2000 + i, 7, size, 8) for i in range(entries))
    start = struct.pack("<4sI", b"II*\0", 8 + size) + bytes(size)
    return start + struct.pack("<H", entries) + directory + struct.pack("<I", 0)


def _tiff(**changed: tuple[int, int]) -> bytes:
    """Return a TIFF of 16 x 16 grey pixels; `t322=(4, 60_000)` sets tag 322 to a value of type 4."""
    pixels = zlib.compress(bytes(256))
    tags = {256: (3, 16), 257: (3, 16), 258: (3, 8), 259: (3, 8), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    tags |= {278: (3, 16), 279: (4, len(pixels))} | {int(name[1:]): value for name, value in changed.items()}
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    )
    start = struct.pack("<4sI", b"II*\0", 8 + len(pixels)) + pixels
    return start + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def _tiff_bomb(entries: int, size: int) -> bytes:
    """Return a TIFF with tags that all claim the same bytes."""
    data = _tiff()
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    more = b"".join(struct.pack("<HHII", 0x9000 + i, 7, size, 8) for i in range(entries))
    moved = data[:4] + struct.pack("<I", len(data) + size) + data[8:] + bytes(size)
    own = data[first + 2 : first + 2 + 12 * count]
    return moved + struct.pack("<H", entries + count) + own + more + struct.pack("<I", 0)


def _jpeg_with_exif(exif: bytes) -> bytes:
    """Return a JPEG with EXIF in several segments, which Pillow joins."""
    parts = [exif[i : i + 60_000] for i in range(0, len(exif), 60_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts)
    jpeg = make.encoded(make.photo(16, 16))
    return jpeg[:2] + segments + jpeg[2:]


def test_a_long_side_is_refused() -> None:
    """Resizing an image with 70 million pixels per row took 1 GB, then raised MemoryError."""
    error = _refused(_png(70_000_000, 1))
    assert error.reason == "image too large"
    assert error.detail == "70000000 x 1, at most 1,000,000 pixels per side allowed"


def test_jpeg_of_many_scans() -> None:
    assert open_image(_jpeg_of_scans(MAX_SCANS), key="k").image.size == (64, 64)
    error = _refused(_jpeg_of_scans(400))
    assert error.reason == "image does not decode"
    assert error.detail == "more than 100 scans of 64 x 64 pixels, at most 100 allowed"
    with temporary_limits(max_pixels=5000):  # 30 x 5000 pixels are allowed: 36 scans of 64 x 64
        assert "50 scans of 64 x 64 pixels, at most 36 allowed" in _refused(_jpeg_of_scans(50)).detail


def test_scan_markers_in_metadata_are_not_counted() -> None:
    """A thumbnail, or a film after the picture, holds markers of its own."""
    jpeg = make.encoded(make.photo(32, 32))
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2000) + b"\xff\xda" * 1000
    data = jpeg[:2] + comment + jpeg[2:] + b"\xff\xda" * 1000
    assert open_image(data, key="k").image.size == (32, 32)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP", "AVIF", "PNG text"])
def test_tags_that_claim_the_same_bytes(kind: str) -> None:
    """A TIFF of 1 MB with 2,000 such tags took 3.8 GB and 11 s; a JPEG took 1.9 GB."""
    exif = _exif_bomb(2000, 400_000)
    text = b"\nexif\n1\n" + exif[:450_000].hex().encode()
    picture = make.photo(16, 16)
    data = {
        "TIFF": lambda: _tiff_bomb(2000, 400_000),
        "JPEG": lambda: _jpeg_with_exif(exif),
        "PNG": lambda: _png(4, 4, extra=b"eXIf" + exif),
        "WEBP": lambda: make.encoded(picture, "WEBP", exif=b"Exif\0\0" + exif),
        "AVIF": lambda: make.encoded(picture, "AVIF") + exif,
        "PNG text": lambda: _png(4, 4, extra=b"zTXtRaw profile type exif\0\0" + zlib.compress(text)),
    }[kind]()
    error = _refused(data)
    assert error.reason == "image does not decode"
    assert "its tags claim" in error.detail or "too large" in error.detail


def test_too_many_tags_and_endless_directories() -> None:
    assert "4,097 tags in one block" in _refused(_tiff_bomb(4097 - 9, 5)).detail
    loop = struct.pack("<4sIHHHIII", b"II*\0", 8, 1, 34665, 4, 1, 8, 0)
    assert open_image(_jpeg_with_exif(loop), key="k").orientation == 1


def test_tiff_tiles_far_larger_than_the_image() -> None:
    assert open_image(_tiff(), key="k").image.getpixel((0, 0)) == (0, 0, 0)
    error = _refused(_tiff(t322=(4, 60_000), t323=(4, 60_000), t324=(4, 8), t325=(4, 99)))
    assert error.reason == "image too large"
    assert error.detail == "tiles of 3,600,000,000 pixels, at most 100,000,000 allowed"


@pytest.mark.parametrize("kind", [b"iCCPname\0\0", b"zTXtkey\0\0"])
def test_compressed_text_and_profiles(kind: bytes) -> None:
    error = _refused(_png(4, 4, extra=kind + zlib.compress(bytes(50_000_000))))
    assert error.reason == "image does not decode"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_only_the_first_of_many_frames_is_decoded(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), (200, i % 256, 0)) for i in range(400)]
    frames[0] = Image.new("RGB", (8, 8), (0, 0, 255))
    data = make.encoded(frames[0], format, save_all=True, append_images=frames[1:])
    start = time.monotonic()
    red, _, blue = open_image(data, key="k").image.getpixel((4, 4))  # type: ignore[misc]
    assert blue > 240 and red < 15 and time.monotonic() - start < SECONDS


@pytest.mark.parametrize("head", [b"P5 %d %d 200\n", b"P3 %d %d 255\n", b"P1 %d %d\n"])
def test_netpbm_that_pillow_decodes_in_python(head: bytes) -> None:
    assert "decodes slowly" in _refused(head % (3000, 3000) + bytes(9_000_000)).detail
    small = open_image(b"P5 2 2 200\n" + bytes([200, 100, 0, 200]), key="k")
    assert small.image.getpixel((0, 0)) == (255,) * 3


def test_devices_pipes_sockets_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        errors = {name: _refused(str(tmp_path / name)) for name in ("pipe", "socket", ".")}
    errors["zero"] = _refused("/dev/zero")
    assert {error.reason for error in errors.values()} == {"image file unreadable"}
    assert errors["pipe"].detail.endswith("pipe is a pipe, not a file")
    assert "is a folder, not a file" in errors["."].detail
    assert errors["zero"].detail == "/dev/zero is a device, not a file"


def test_a_file_of_5_gb_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(5 * 2**30)
    error = _refused(str(tmp_path / "sparse.jpg"))
    assert error.reason == "image file unreadable"
    assert error.detail.endswith("has more than the 536,870,912 bytes allowed for an image")


READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from xvlm.data.images.decode import open_image
from xvlm.records import BadRecord
try:
    opened = open_image(sys.argv[2], key="k")
    small = opened.resized((0, 0, opened.width, opened.height), (224, 224))
    print("read", small.getpixel((9, 9)))
except BadRecord as error:
    print(error)
"""


def _read_within(memory_bytes: int, path: Path) -> str:
    """Return what a process with a memory limit prints about the image."""
    command = [sys.executable, "-c", READ, str(memory_bytes), str(path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()[0]


def test_a_large_transparent_picture_is_not_copied_five_times(tmp_path: Path) -> None:
    """A picture of 100 megapixels took 1.9 GB."""
    path = tmp_path / "a.png"
    path.write_bytes(_png(5000, 5000, colour=6))
    assert _read_within(550 * 10**6, path) == "read (255, 255, 255)"


def test_formats_whose_decoders_copy_are_refused_by_their_memory(tmp_path: Path) -> None:
    with temporary_limits(max_pixels=1_000_000):
        data = make.encoded(Image.new("RGB", (990, 990)), "JPEG2000")
        error = _refused(data)
    assert error.reason == "image too large"
    assert "990 x 990 JPEG2000 of mode RGB needs 19,602,000 bytes of memory" in error.detail
    assert "--max-pixels allows more" in error.detail
    assert open_image(data, key="k").image.size == (990, 990)
