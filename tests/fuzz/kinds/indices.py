"""Indices beside tar shards, of the right version, that lie."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
from typing import Any

import numpy as np

from tests.fuzz import mutate, payload
from tests.fuzz.case import Box, Call, Reading
from tests.fuzz.kinds.lines import evaluated, read
from tests.fuzz.kit import records

LIES = (-1, 0, 1, 2, 7, 512, 2**31, 2**40, 2**62, -(2**62), 2**63 - 1)


def generate(rng: random.Random, box: Box) -> Call:
    """A good tar with a damaged index."""
    from xvlm.data.sources.tar_index import build_tar_index

    path = box.folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number, record in enumerate(records(box.kit, "retrieval")):
            tar.add(box.kit / "photos" / f"{number}.jpg", f"{number}.jpg")
            data = str(record["caption"]).encode()
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    build_tar_index(str(path))
    index = box.folder / "a.tar.idx"
    if index.exists():
        made = rng.choice([lying, lying, lying, damaged, hostile, bomb])
        index.write_bytes(made(rng, box, index.read_bytes()))
    if rng.random() < 0.2:
        return evaluated(rng, box, "retrieval", path)
    return Reading(f"{path} with an index", lambda: read(str(path)))


def arrays_of(data: bytes) -> dict[str, Any]:
    """The arrays of an index."""
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name] for name in stored.files}


def saved(arrays: dict[str, Any]) -> bytes:
    """As an index."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def lying(rng: random.Random, box: Box, data: bytes) -> bytes:
    """Right in form, wrong in what it says."""
    arrays = arrays_of(data)
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([name for name in arrays if name != "state"])
        value = arrays[name].copy()
        how = rng.randrange(9)
        if how < 3 and value.ndim and value.size:
            value[rng.randrange(len(value))] = (
                rng.choice(LIES) if value.dtype.kind == "i" else b"\xff\x1b.jpg"
            )
        elif how == 3:
            value = value[: rng.randrange(len(value) + 1)]
        elif how == 4:
            value = np.concatenate((value, value))
        elif how == 5:
            value = value[None]
        elif how == 6:
            value = (
                value.astype(rng.choice(["S3", "U9", "f8", "i1", "b1", "M8[ns]"]))
                if value.dtype.kind == "i"
                else np.arange(len(value))
            )
        elif how == 7:
            value = np.flip(value)
        else:
            value = np.array(rng.choice(LIES))
        arrays[name] = value
    if rng.random() < 0.1:
        arrays.pop(rng.choice(list(arrays)))
    return saved(arrays)


def damaged(rng: random.Random, box: Box, data: bytes) -> bytes:
    """No right form any more."""
    return mutate.damaged(rng, data)


def hostile(rng: random.Random, box: Box, data: bytes) -> bytes:
    """An array of objects, whose pickle would be executed."""
    arrays = arrays_of(data)
    arrays[rng.choice(list(arrays))] = np.array([payload.evil(box)], dtype=object)
    return rng.choice([saved(arrays), payload.pickled(box)])


def bomb(rng: random.Random, box: Box, data: bytes) -> bytes:
    """A header that promises much, or zeros that unpack to much."""
    arrays, name = arrays_of(data), rng.choice(["first", "offsets", "sizes", "names"])
    shape = rng.choice([2**40, 2**62, 400_000_000])
    start = str({"descr": "<i8", "fortran_order": False, "shape": (shape,)})
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + start.encode().ljust(117) + b"\n"
    body = bytes(rng.choice([0, 64, 200_000_000]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for other, value in arrays.items():
            whole = io.BytesIO()
            np.save(whole, value)
            zipped.writestr(f"{other}.npy", head + body if other == name else whole.getvalue())
    return file.getvalue()
