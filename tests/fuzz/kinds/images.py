"""Files that are, or say that they are, images."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import mutate, payload
from tests.fuzz.case import Box, Call, Command, Reading

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "P", "I;16", "1", "LA"),
    "TIFF": ("RGB", "I;16", "F", "L"),
}
SUFFIXES = ("jpg", "png", "webp", "gif", "bmp", "tif", "txt", "", "jpeg.exe", "svg", "eps", "psd")


def generate(rng: random.Random, box: Box) -> Call:
    """An image file, and what opens it."""
    made = rng.choice([plain, plain, plain, header, header, chunks, huge, scans, special, foreign, remote])
    found = made(rng, box)
    if isinstance(found, bytes):
        name = rng.choice(["image", f"a{mutate.ESCAPES}", "-v", "a b", "ü" * 40, "a\nb", "100%"])
        path = box.folder / f"{name}.{rng.choice(SUFFIXES)}"
        path.write_bytes(found)
        found = str(path)
    if rng.random() < 0.25:
        words = ("ground", found, "the red dog", "--model", box.kit / "model", "--json")
        return Command.of(*words, network="://127.0.0.1" in found)
    return Reading(f"{made.__name__}: open_image({found!r})", lambda: opened(rng, found))


def opened(rng: random.Random, image: str) -> None:
    """Everything that is asked of an image file, by its path or its bytes."""
    from xvlm.data.images.decode import open_image

    data: str | bytes = image
    if os.path.isfile(image) and os.path.getsize(image) < 2**24 and rng.random() < 0.3:
        data = Path(image).read_bytes()
    found = open_image(data, key="k")
    whole = (0.0, 0.0, float(found.width), float(found.height))
    assert found.resized(whole, (64, 96), fast=True).size == (96, 64)
    if found.width * found.height <= 4_000_000:
        assert found.image.size == (found.width, found.height)
        assert found.image.mode == "RGB"
    found.resized((0.0, 0.0, min(1.0, whole[2]), min(1.0, whole[3])), (32, 32))


def encoded(rng: random.Random, kind: str | None = None) -> bytes:
    """A small image of any kind that is well formed."""
    kind = kind or rng.choice(FORMATS)
    width, height = rng.choice([(1, 1), (24, 16), (3, 200), (64, 64), (120, 90)])
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mode = rng.choice(MODES.get(kind, ("RGB",)))
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * rng.choice([1, 16, 257]))
    elif mode == "F":
        picture = Image.fromarray(pixels[..., 0].astype(np.float32) * rng.choice([1.0, np.nan, 1e38, -1.0]))
    else:
        picture = picture.convert(mode)
    file = io.BytesIO()
    options: dict[str, object] = {}
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
        options["exif"] = mutate.damaged(rng, exif.tobytes()) if rng.random() < 0.5 else exif
    if kind == "JPEG":
        options |= {"progressive": rng.random() < 0.5, "quality": rng.choice([1, 90])}
    if kind in ("GIF", "TIFF", "WEBP", "PNG") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [picture] * rng.choice([1, 20])}
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def plain(rng: random.Random, box: Box) -> bytes:
    """Whole, cut or flipped."""
    return mutate.damaged(rng, encoded(rng)) if rng.random() < 0.9 else encoded(rng)


def header(rng: random.Random, box: Box) -> bytes:
    """Another size in the header than in the file."""
    kind = rng.choice(["PNG", "JPEG", "BMP", "GIF", "PPM"])
    data, sides = (
        bytearray(encoded(rng, kind)),
        (0, 1, 9999, 10_000, 65_535, 70_000_000, 2**31 - 1, 2**32 - 1),
    )
    width, height = rng.choice(sides), rng.choice(sides)
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        if rng.random() < 0.3:
            data[24:28] = rng.randbytes(4)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif kind == "BMP":
        data[18:26] = struct.pack("<II", width, height)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    else:
        data[:] = b"P6\n%d %d\n%d\n" % (width, height, rng.choice([255, 0, 65535, 10**30])) + bytes(50)
    return bytes(data)


def png(width: int, height: int, *more: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of zeros that packs to nothing, with any chunks before its pixels."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    line = 1 + (width * channels * depth + 7) // 8
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(line)) for _ in range(height)) + packer.flush()
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    all_chunks = [(b"IHDR", ihdr), *more, (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in all_chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def chunks(rng: random.Random, box: Box) -> bytes:
    """Texts, profiles and animations that unpack to much, or are damaged."""
    bomb = zlib.compress(bytes(30_000_000), 9)
    name, data = rng.choice(
        [
            (b"zTXt", b"Comment\0\0" + bomb),
            (b"iCCP", b"icc\0\0" + bomb),
            (b"iTXt", b"Title\0\1\0\0\0" + bomb),
            (b"eXIf", rng.randbytes(60)),
            (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            (b"tRNS", rng.randbytes(rng.choice([0, 2, 6, 300]))),
            (b"PLTE", rng.randbytes(rng.choice([0, 3, 7, 900]))),
            (b"gAMA", b"\0\0\0\0"),
        ]
    )
    return png(8, 8, *[(name, data)] * rng.choice([1, 1, 3]))


def huge(rng: random.Random, box: Box) -> bytes:
    """Many pixels in few bytes."""
    width, height = rng.choice(
        [(9_000, 9_000), (20_000, 4_000), (10_001, 10_001), (99_999_999, 1), (1, 99_999)]
    )
    if width * height > 90_000_000:
        return png(min(width, 100_000_000), height) if height < 3 else png(width, 2)
    depth, colour = rng.choice([(8, 2), (16, 6), (8, 6), (16, 0), (8, 0)])
    return png(width, height, depth=depth, colour=colour)


def scans(rng: random.Random, box: Box) -> bytes:
    """A progressive JPEG whose scans are repeated."""
    pixels = np.random.default_rng(0).integers(0, 256, (rng.choice([64, 1500]),) * 2 + (3,), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", progressive=True, quality=20)
    data = file.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * rng.choice([2, 50, 400]) + data[-2:]


def special(rng: random.Random, box: Box) -> str:
    """Paths that are no regular file with an image in it."""
    path = box.folder / "special.png"
    kind = rng.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to(path)
    elif kind == 4:
        with path.open("wb") as file:  # takes no room
            file.write(b"\x89PNG\r\n\x1a\n")
            file.truncate(rng.choice([5 * 2**30, 2**40]))
    elif kind == 5:
        path.write_bytes(b"")
    elif kind == 6:
        return rng.choice(
            ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/mem", "/proc/kmsg", "/dev/random"]
        )
    elif kind == 7:
        return rng.choice(mutate.TEXTS)
    else:
        path.symlink_to(box.folder / "nothing")
    return str(path)


def foreign(rng: random.Random, box: Box) -> bytes:
    """Something else under an image's name."""
    return rng.choice(
        [
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n",
            b'<svg xmlns="http://www.w3.org/2000/svg" onload="x"/>',
            payload.pickled(box),
            b"8BPS" + bytes(40),
            b"\0\0\0\x18ftypheic" + bytes(40),
            b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
            base64.b64encode(encoded(rng)),
            encoded(rng, "PNG")[:8],
            rng.randbytes(300),
        ]
    )


def remote(rng: random.Random, box: Box) -> str:
    """Addresses that a data file must not be able to open."""
    references = payload.template(box)
    png_file = box.kit / "photos" / "plain.png"
    return rng.choice(
        [
            f"reference://x::file://{references}",
            f"simplecache::file://{png_file}",
            f"filecache::file://{png_file}",
            f"zip://a.png::file://{references}",
            f"file://{png_file}",
            f"local://{png_file}",
            "memory://a.png",
            "http://127.0.0.1:9/a.png",
            "https://127.0.0.1:9/a.png",
            "s3://bucket/a.png",
            "ftp://127.0.0.1/a.png",
            "ssh://127.0.0.1/a.png",
            "github://a:b@main/a.png",
            "data:image/png;base64,AAAA",
            "data://image/png;base64,AAAA",
            "nothing://a.png",
            "://",
            "dask://a",
            "git://x",
            "jupyter://127.0.0.1:9/a",
            "blockcache::http://127.0.0.1:9/a",
        ]
    )
