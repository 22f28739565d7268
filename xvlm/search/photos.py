"""The photos of a collection: files below folders, in lists and in tar shards, local or remote.

A photo in a tar has the path of the tar as that of a folder: `shards/000.tar/0001.jpg`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from xvlm.common.errors import InputError, MissingFileError, XVLMError
from xvlm.data.files import storage
from xvlm.data.images.decode import read_encoded
from xvlm.data.sources.tar import read_member
from xvlm.data.sources.tar_index import TarIndex, load_tar_index
from xvlm.records import BadRecord

_SUFFIXES = "jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif jp2 ppm pgm pbm"
SUFFIXES = frozenset(_SUFFIXES.split())
"""Suffixes by which a photo is known in a folder or a tar; a file that is named is read whatever its name."""
_REMOTE_TIMES = ("LastModified", "last_modified", "mtime", "updated")


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """A photo as its file system lists it.

    Attributes:
        path: absolute path or URL.
        root: absolute path or URL of the folder, list or shard that led to it.
        size: bytes.
        mtime_ns: modification time; 0 if it is unknown, so that only the content tells a change.
    """

    path: str
    root: str
    size: int
    mtime_ns: int


def list_photos(roots: Sequence[str]) -> Iterator[PhotoFile | BadRecord]:
    """Yield the photos of each root, those of a folder sorted by path, and what could not be listed.

    A photo that several roots lead to is listed for each.  Hidden files are left out, and links to folders
    are not followed, since they may form a loop.

    Args:
        roots: folders, which are searched with the folders below them; tar shards (`.tar`); lists (`.txt`)
            with one path or URL a line, relative to the list; photos.  Each is local or a URL.
    Raises:
        MissingFileError: a root does not exist.
        InputError: a root cannot be read.
    """
    for root in map(storage.absolute, roots):
        yield from _list_root(root)


def _list_root(root: str) -> Iterator[PhotoFile | BadRecord]:
    remote = storage.is_remote(root)
    if storage.is_folder(root):
        yield from _list_remote(root) if remote else _list_folder(root)
    elif root.endswith(".tar"):
        yield from _list_tar(root, root)
    elif root.endswith(".txt"):
        yield from _read_list(root)
    else:
        yield _photo(root, root)


def _list_folder(root: str) -> Iterator[PhotoFile | BadRecord]:
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            yield BadRecord("folder unreadable", folder, error.strerror or str(error))
            continue
        below = []
        for entry in inside:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.name.endswith(".tar"):
                yield from _list_tar(entry.path, root)
            elif _is_photo(entry.name):
                yield _local_photo(entry, root)
        folders += reversed(below)


def _local_photo(entry: os.DirEntry[str], root: str) -> PhotoFile | BadRecord:
    try:
        entry.path.encode()
        state = entry.stat()
    except UnicodeEncodeError:
        return BadRecord("file name is not valid Unicode", entry.path)
    except OSError as error:
        return BadRecord("image file unreadable", entry.path, error.strerror or str(error))
    return PhotoFile(entry.path, root, state.st_size, state.st_mtime_ns)


def _list_remote(root: str) -> Iterator[PhotoFile | BadRecord]:
    for path, details in storage.find_remote(root):
        if any(part.startswith(".") for part in path.removeprefix(root).split("/")):
            continue
        if path.endswith(".tar"):
            yield from _list_tar(path, root)
        elif _is_photo(path):
            yield PhotoFile(path, root, int(details["size"] or 0), _remote_time(details))


def _remote_time(details: dict[str, Any]) -> int:
    """Return the modification time in nanoseconds, which each client calls by another name, or 0."""
    value = next((details[name] for name in _REMOTE_TIMES if details.get(name)), 0)
    if isinstance(value, datetime):
        return int(value.timestamp() * 1e9)
    return int(value * 1e9) if isinstance(value, (int, float)) else 0


def _list_tar(path: str, root: str) -> Iterator[PhotoFile | BadRecord]:
    try:
        index, state = load_tar_index(path), storage.file_state(path)
    except XVLMError as error:
        if path == root:
            raise
        yield BadRecord("tar unreadable", path, str(error))
        return
    for member, size in enumerate(index.sizes.tolist()):
        name = index.name(member)
        if _is_photo(name):
            yield PhotoFile(f"{path}/{name}", root, size, state.mtime_ns)


def _read_list(root: str) -> Iterator[PhotoFile | BadRecord]:
    folder = root.rpartition("/")[0] if storage.is_remote(root) else os.path.dirname(root)
    try:
        lines = storage.read_all(root).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{root} is not a list in UTF-8: byte {error.start} cannot be decoded") from error
    for line in filter(None, map(str.strip, lines)):
        path = line if storage.is_remote(line) or os.path.isabs(line) else f"{folder}/{line}"
        try:
            yield _photo(storage.absolute(path), root)
        except BadRecord as error:
            yield error
        except XVLMError as error:
            yield BadRecord("image file missing", path, str(error))


def _photo(path: str, root: str) -> PhotoFile:
    if (inside := split_tar(path)) is not None:
        state = storage.file_state(inside[0])
        index = _tar_index(inside[0], state)
        member = _member(index, inside[1], path)
        return PhotoFile(path, root, int(index.sizes[member]), state.mtime_ns)
    state = storage.file_state(path)
    return PhotoFile(path, root, state.bytes, state.mtime_ns)


def _is_photo(name: str) -> bool:
    return name.rpartition(".")[2].lower() in SUFFIXES


def split_tar(path: str) -> tuple[str, str] | None:
    """Split the path of a photo in a tar into those of the tar and of the member; `None` for a file."""
    tar, separator, member = path.partition(".tar/")
    if not separator or (not storage.is_remote(path) and os.path.isdir(f"{tar}.tar")):
        return None
    return f"{tar}.tar", member


def read_photo(path: str) -> bytes:
    """Read the encoded photo.  Raises BadRecord if it is missing, unreadable or too large."""
    if (inside := split_tar(path)) is None:
        return read_encoded(path, path, trusted=True)
    tar, name = inside
    try:
        state = storage.file_state(tar)
        index = _tar_index(tar, state)
    except MissingFileError as error:
        raise BadRecord("image file missing", path, str(error)) from error
    return read_member(tar, index, _member(index, name, path), state.bytes, path)


@lru_cache(maxsize=256)
def _tar_index(path: str, state: storage.FileState) -> TarIndex:
    return load_tar_index(path)


def _member(index: TarIndex, name: str, path: str) -> int:
    (found,) = (index.names == name.encode("utf-8")).nonzero()
    if not len(found):
        raise BadRecord("image file missing", path, f"the tar has no member {name}")
    return int(found[0])
