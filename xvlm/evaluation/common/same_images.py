"""Grouping of the records of a source that show the same image.

Files are compared by real path (`./a.png`, `a.png` and a link to it are one), URLs by their normal form, and
images by content: encoded bytes, or decoded pixels.  Copies of a file under another name are looked for only
among files of equal size, so that few files are read twice.
"""

from __future__ import annotations

import hashlib
import os
import stat
from posixpath import normpath
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from xvlm import distributed
from xvlm.common.progress import progress_bar
from xvlm.data.files import storage
from xvlm.data.sources.source import Source
from xvlm.evaluation.common.ranks import rank_slice
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.records import BadRecord, ImageData

MAX_HASHED_BYTES = 2**28
"""Maximum size of a file whose content is compared; larger files are compared by path alone."""
UNKNOWN_SIZE = -1
DEFAULT_PORTS = {"http": "80", "https": "443"}


def record_count(source: Source, limit: int | None) -> int:
    """Return the number of records of a source, at most `limit`."""
    return len(source) if limit is None else min(limit, len(source))


def image_groups(source: Source, limit: int | None, skipped: SkippedSamples) -> list[list[int]]:
    """Return the indices of the records of each image, in the order of the source, the same on all ranks.

    Each rank reads a part of the records.

    Args:
        limit: number of records; `None` uses all.
        skipped: receives the records of this rank's part that cannot be read.
    """
    count = record_count(source, limit)
    indices = range(count)[rank_slice(count)]
    own: list[tuple[int, bytes, int]] = []
    for index in progress_bar(indices, "finding images", len(indices)):
        try:
            own.append((index, *image_name(source[index].image)))
        except BadRecord as error:
            skipped.append(error)
    gathered = distributed.gather_lists(own)
    names_by_size: dict[int, set[bytes]] = {}
    for _, name, size in gathered:
        if size != UNKNOWN_SIZE:
            names_by_size.setdefault(size, set()).add(name)
    contents: dict[bytes, bytes] = {}
    for index, name, size in own:
        if size != UNKNOWN_SIZE and len(names_by_size[size]) > 1 and name not in contents:
            contents[name] = content_name(source[index].image, name)
    for others in distributed.gather_objects(contents):
        contents |= others
    groups: dict[bytes, list[int]] = {}
    for index, name, _ in gathered:
        groups.setdefault(contents.get(name, name), []).append(index)
    return list(groups.values())


def image_name(image: ImageData) -> tuple[bytes, int]:
    """Return a hash that names an image, and its encoded size in bytes or `UNKNOWN_SIZE`.

    Images of one name are the same; images of different names may be the same if their sizes are equal.
    """
    if isinstance(image, np.ndarray):
        name = digest(f"pixels {image.shape}".encode(), np.ascontiguousarray(image).tobytes())
        return name, UNKNOWN_SIZE
    if isinstance(image, bytes):
        return digest(b"content", image), len(image)
    if storage.is_remote(image):
        return digest(b"url", normalize_url(image).encode("utf-8", "surrogatepass")), UNKNOWN_SIZE
    try:
        path = os.path.realpath(image)
        state = os.stat(path)
    except (OSError, ValueError):  # the file is missing, or the name is not valid
        return digest(b"path", image.encode("utf-8", "surrogatepass")), UNKNOWN_SIZE
    comparable = stat.S_ISREG(state.st_mode) and state.st_size <= MAX_HASHED_BYTES
    return digest(b"path", os.fsencode(path)), state.st_size if comparable else UNKNOWN_SIZE


def content_name(image: ImageData, name: bytes) -> bytes:
    """Return a hash of an image file's bytes; `name` if the image is not a file or cannot be read."""
    if not isinstance(image, str):
        return name
    try:
        return digest(b"content", storage.read_all(image))
    except OSError:
        return name


def digest(kind: bytes, data: bytes) -> bytes:
    """Return a hash of 16 bytes that differs between kinds of data."""
    kind_digest = hashlib.blake2b(kind, digest_size=16).digest()
    return hashlib.blake2b(data, digest_size=16, person=kind_digest).digest()


def normalize_url(url: str) -> str:
    """Normalise a URL: host in lower case, no default port, no `.` or `..`, no fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    is_default = port is None or str(port) == DEFAULT_PORTS.get(parts.scheme)
    host = (parts.hostname or "") + ("" if is_default else f":{port}")
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@{host}" if user else host
    path = normpath(parts.path) if parts.path else ""
    return urlunsplit((parts.scheme, netloc, path, parts.query, ""))
