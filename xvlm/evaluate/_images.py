"""Which records of a source show the same image, wherever they stand in it.

Records are joined by the real path of a file (`./a.png`, `a.png` and a link to it are one), by the normal
form of a URL, and by content: encoded bytes of a file or of a tar's member, decoded pixels.  Copies of a file
under another name are found by size first, so that hardly any file is read twice.
"""

from __future__ import annotations

import hashlib
import os
import stat
from posixpath import normpath
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from xvlm import dist
from xvlm.data import files
from xvlm.data.sources import Source
from xvlm.evaluate._candidates import share
from xvlm.evaluate._skipped import Skipped
from xvlm.progress import tracked
from xvlm.records import BadRecord, ImageData

HASHED_BYTES = 2**28
"""A larger file is joined by its path alone."""
UNKNOWN = -1
PORTS = {"http": "80", "https": "443"}


def record_count(source: Source, limit: int | None) -> int:
    """How many records are measured."""
    return len(source) if limit is None else min(limit, len(source))


def image_groups(source: Source, limit: int | None, skipped: Skipped) -> list[list[int]]:
    """The records of every image, by number; images and their records are in the source's order.

    All ranks get the same.  Each reads a part of the records; those that cannot be read go to its `skipped`.
    """
    count = record_count(source, limit)
    numbers = range(count)[share(count)]
    own: list[tuple[int, bytes, int]] = []
    for number in tracked(numbers, "finding images", len(numbers)):
        try:
            own.append((number, *identity(source[number].image)))
        except BadRecord as error:
            skipped.append(error)
    found = dist.collected(own)
    names_of: dict[int, set[bytes]] = {}
    for _, name, size in found:
        if size != UNKNOWN:
            names_of.setdefault(size, set()).add(name)
    contents: dict[bytes, bytes] = {}
    for number, name, size in own:
        if size != UNKNOWN and len(names_of[size]) > 1 and name not in contents:
            contents[name] = content_of(source[number].image, name)
    for others in dist.gather_objects(contents):
        contents |= others
    groups: dict[bytes, list[int]] = {}
    for number, name, _ in found:
        groups.setdefault(contents.get(name, name), []).append(number)
    return list(groups.values())


def identity(image: ImageData) -> tuple[bytes, int]:
    """What names an image, hashed, and how many bytes it has in encoded form, `UNKNOWN` where none is known.

    Images of the same name are the same.  Those of another name may be, where their sizes are equal.
    """
    if isinstance(image, np.ndarray):
        return hashed(f"pixels {image.shape}".encode(), np.ascontiguousarray(image).tobytes()), UNKNOWN
    if isinstance(image, bytes):
        return hashed(b"content", image), len(image)
    if files.is_remote(image):
        return hashed(b"url", normal_url(image).encode("utf-8", "surrogatepass")), UNKNOWN
    try:
        path = os.path.realpath(image)
        state = os.stat(path)
    except (OSError, ValueError):  # it is missing, or its name cannot be one
        return hashed(b"path", image.encode("utf-8", "surrogatepass")), UNKNOWN
    plain = stat.S_ISREG(state.st_mode) and state.st_size <= HASHED_BYTES
    return hashed(b"path", os.fsencode(path)), state.st_size if plain else UNKNOWN


def content_of(image: ImageData, name: bytes) -> bytes:
    """What names an image by its bytes; `name`, where they cannot be read."""
    if not isinstance(image, str):
        return name
    try:
        return hashed(b"content", files.read_all(image))
    except OSError:
        return name


def hashed(kind: bytes, data: bytes) -> bytes:
    """16 bytes that tell things of one kind apart."""
    return hashlib.blake2b(
        data, digest_size=16, person=hashlib.blake2b(kind, digest_size=16).digest()
    ).digest()


def normal_url(url: str) -> str:
    """One spelling of a URL: host in lower case, without the usual port, `.`, `..` and fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    host = (parts.hostname or "") + (
        "" if port is None or str(port) == PORTS.get(parts.scheme) else f":{port}"
    )
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@{host}" if user else host
    path = normpath(parts.path) if parts.path else ""
    return urlunsplit((parts.scheme, netloc, path, parts.query, ""))
