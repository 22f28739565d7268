"""Files by path: local ones, and remote ones through fsspec (`s3://`, `hdfs://`, `https://`, ...).

Nothing is held open between calls, so whatever holds only paths can be forked and pickled freely.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import numpy as np

from xvlm.errors import MissingFileError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, glob or folder, local or remote, or a list of them."""


@dataclass(frozen=True)
class FileState:
    """What tells one version of a file from another.  Remote times are not reliable: 0 there."""

    bytes: int
    mtime_ns: int


def is_remote(path: str) -> bool:
    """Whether fsspec has to read `path`."""
    return "://" in path


def open_binary(path: str) -> IO[bytes]:
    """The file, open for reading and seeking."""
    if is_remote(path):
        return fsspec.open(path, "rb").open()  # type: ignore[no-any-return]
    return open(path, "rb")


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; fewer where the file ends before."""
    if is_remote(path):
        # a fresh look-up per call: fsspec gives a forked process its own connection
        fs, inner = fsspec.core.url_to_fs(path)
        return fs.cat_file(inner, start=offset, end=offset + size)  # type: ignore[no-any-return]
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        parts = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def read_all(path: str) -> bytes:
    """The whole file.  Raises FileNotFoundError."""
    with open_binary(path) as file:
        return file.read()


def state(path: str) -> FileState:
    """Size and time of last change.  Raises FileNotFoundError."""
    if is_remote(path):
        fs, inner = fsspec.core.url_to_fs(path)
        info: dict[str, Any] = fs.info(inner)
        return FileState(int(info["size"]), 0)
    stat = os.stat(path)
    return FileState(stat.st_size, stat.st_mtime_ns)


def join(root: str, path: str) -> str:
    """`path` below `root`, unless it is absolute or a URL already."""
    if is_remote(path) or os.path.isabs(path):
        return path
    return f"{root.rstrip('/')}/{path}" if is_remote(root) else os.path.join(root, path)


def name_of(paths: Paths) -> str:
    """What to call them in logs."""
    return os.fspath(paths) if isinstance(paths, (str, os.PathLike)) else name_of(paths[0])


def expand(spec: Paths) -> list[str]:
    """The files meant by a path, a glob, a folder (all files in it), or a list of these; globs sorted.

    Raises:
        FileNotFoundError: when one of them names no file.
    """
    if not isinstance(spec, (str, os.PathLike)):
        return [path for item in spec for path in expand(item)]
    pattern = os.fspath(spec)
    found = _expand_remote(pattern) if is_remote(pattern) else _expand_local(pattern)
    if not found:
        raise MissingFileError(f"no file matches {pattern!r}")
    return found


def _expand_local(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        inside = sorted(os.path.join(pattern, name) for name in os.listdir(pattern))
        return [path for path in inside if _is_data_file(path) and os.path.isfile(path)]
    # a name that exists is itself, whatever brackets it holds
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def _expand_remote(pattern: str) -> list[str]:
    fs, inner = fsspec.core.url_to_fs(pattern)
    if fs.isdir(inner):
        inside = sorted(fs.ls(inner, detail=False))
        found = [path for path in inside if _is_data_file(path) and fs.isfile(path)]
    else:
        found = [inner] if fs.exists(inner) else sorted(fs.glob(inner))
    return [fs.unstrip_protocol(path) for path in found]


def _is_data_file(path: str) -> bool:
    """Not a hidden file, a marker such as `_SUCCESS`, or the index of a tar shard."""
    name = path.rsplit("/", 1)[-1]
    return not name.startswith((".", "_")) and not name.endswith(".idx")


def locate(ends: np.ndarray, index: int) -> tuple[int, int]:
    """(shard, place in it) of a record, given the running sum (S,) of S shards' sizes."""
    if not 0 <= index < ends[-1]:
        raise IndexError(f"record {index} of a source that has {ends[-1]}")
    shard = int(np.searchsorted(ends, index, side="right"))
    return shard, index - (int(ends[shard - 1]) if shard else 0)
