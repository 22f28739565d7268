"""Tar shards: headers, names, sizes and members that are not what they say."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import tarfile

from tests.fuzz import mutate
from tests.fuzz.case import Box, Call, Reading
from tests.fuzz.kinds.lines import evaluated, read
from tests.fuzz.kit import records

FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
TYPES = (
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
    tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z", b"\0",
)  # fmt: skip
FOLDERS = ("", "", "dir.v2/", "../", "/", "./", "a/" * 60, f"{mutate.ESCAPES}/", "a\nb/")
SIZES = (2**60, 2**63 - 1, 2**40, -1, -(2**40), 0, 1, 10**30)


def generate(rng: random.Random, box: Box) -> Call:
    """A tar of a few samples, and what reads it."""
    data = bytearray(shard(rng, box))
    if rng.random() < 0.5:
        data = bytearray(header(rng, bytes(data)))
    if rng.random() < 0.4:
        data = bytearray(mutate.damaged(rng, bytes(data)))
    path = box.folder / rng.choice(["a.tar", "a.tar", "a b.tar", f"{mutate.ESCAPES}.tar", "A.TAR", "a.b.tar"])
    path.write_bytes(data)
    if rng.random() < 0.25:
        return evaluated(rng, box, "retrieval", path)
    return Reading(f"open_source({str(path)!r})", lambda: read(str(path)))


def shard(rng: random.Random, box: Box) -> bytes:
    """Samples with some strange members."""
    file = io.BytesIO()
    mode = rng.choice(["w", "w", "w", "w", "w:gz"])
    with tarfile.open(fileobj=file, mode=mode, format=rng.choice(FORMATS)) as tar:  # type: ignore[call-overload]
        for number, record in enumerate(records(box.kit, rng.choice(["retrieval", "regions"]))):
            stem = f"{rng.choice(FOLDERS)}{number:04}{rng.choice(['', '', '.seg', '..', ' '])}"
            picture = (box.kit / "photos" / f"{number}.jpg").read_bytes()
            fields = {name: value for name, value in record.items() if name != "image"}
            if rng.random() < 0.3:
                fields = mutate.mutated(rng, record)
            add(rng, tar, f"{stem}.jpg", picture)
            add(
                rng,
                tar,
                f"{stem}.{rng.choice(['json', 'json', 'txt', 'JSON', 'cls', ''])}",
                mutate.encoded(json.dumps(fields)),
            )
            if rng.random() < 0.2:
                add(
                    rng,
                    tar,
                    rng.choice([f"{stem}.jpg", f"{stem}.png", ".hidden", "x" * 300, "\udcff.jpg"]),
                    picture[:99],
                )
    return file.getvalue()


def add(rng: random.Random, tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One member, now and then of another type or with attributes that lie."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    if rng.random() < 0.1:
        member.type = rng.choice(TYPES)
        member.linkname = rng.choice(["/etc/passwd", "../x", name, "nothing"])
        if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
            member.size = 0
    if rng.random() < 0.1:
        key = rng.choice(
            [
                "size",
                "path",
                "GNU.sparse.major",
                "GNU.sparse.map",
                "GNU.sparse.size",
                "hdrcharset",
                "linkpath",
            ]
        )
        member.pax_headers = {
            key: rng.choice([str(rng.choice(SIZES)), "1", "0,1,2", "BINARY", "x" * 3000, "nan"])
        }
    with contextlib.suppress(ValueError, UnicodeError, struct.error):  # a name that the format cannot hold
        tar.addfile(member, io.BytesIO(data))


def header(rng: random.Random, data: bytes) -> bytes:
    """A member's size field changed, and its checksum made right again."""
    blocks = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not blocks:
        return data
    at = rng.choice(blocks)
    block = bytearray(data[at : at + 512])
    size = rng.choice(SIZES)
    if rng.random() < 0.5 or size < 0:
        block[124:136] = b"\x80" + (size & (2**88 - 1)).to_bytes(11, "big")
    else:
        block[124:136] = (b"%011o\0" % size)[-12:]
    if rng.random() < 0.3:
        block[156:157] = rng.choice(TYPES)
    if rng.random() < 0.2:
        block[0:100] = rng.choice(
            [bytes(100), b"\xff" * 100, b"a" * 100, b"\x1b]0;x\x07.jpg".ljust(100, b"\0")]
        )
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :]
