"""Files by path: local ones, and remote ones through fsspec (`s3://`, `hdfs://`, `https://`, ...).

No path makes fsspec run or read anything else: protocols stand in a list, and chains of them are refused.

Nothing is held open between calls, so whatever holds only paths can be forked and pickled freely.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import numpy as np

from xvlm.data import remote
from xvlm.data.limits import current
from xvlm.errors import InputError, MissingFileError, MissingPackageError, XVLMError
from xvlm.records import BadRecord

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, glob or folder, local or remote, or a list of them."""


@dataclass(frozen=True)
class FileState:
    """What tells one version of a file from another.  Remote times are not reliable: 0 there."""

    bytes: int
    mtime_ns: int


_CHUNK_BYTES = 2**22

PROTOCOLS = {
    "http": "the extra: pip install 'xvlm[remote]'",
    "https": "the extra: pip install 'xvlm[remote]'",
    "s3": "the extra: pip install 'xvlm[remote]'",
    "s3a": "the extra: pip install 'xvlm[remote]'",
    "gs": "the package gcsfs",
    "gcs": "the package gcsfs",
    "az": "the package adlfs",
    "abfs": "the package adlfs",
    "abfss": "the package adlfs",
    "hf": "a newer huggingface-hub",
    "hdfs": "the package pyarrow",
    "memory": "",
}
"""Protocols that are read, and what each needs besides fsspec."""


def is_remote(path: str) -> bool:
    """Whether `path` is a URL of another protocol than `file`."""
    return "://" in path and not path.startswith("file://")


def check_url(url: str) -> str:
    """The URL itself.  Raises InputError for chains of protocols, and for those that are not read."""
    protocol = url.partition("://")[0]
    if "::" in url:
        raise InputError(f"{url!r} chains protocols by '::', which is not read")
    if protocol not in PROTOCOLS:
        raise InputError(f"{url!r} is of protocol {protocol!r}; those read are {', '.join(PROTOCOLS)}")
    return url


def check_named_by_data(path: str) -> str:
    """A path that stands in a data file, itself.

    Raises BadRecord for a URL, unless `Limits.allow_remote` is set.
    """
    if is_remote(path) and not current().allow_remote:
        raise BadRecord(
            "remote image is not allowed", "", f"{path!r}; --allow-remote allows URLs in data files"
        )
    return path


def open_binary(path: str) -> IO[bytes]:
    """The file, open for reading and seeking.

    Raises:
        MissingFileError.
        InputError: it is no regular file (a folder, a device, a pipe), or cannot be read.
        MissingPackageError: its protocol needs a package that is not installed.
    """
    if is_remote(path):
        with _remote_errors(path):
            fs, inner = _filesystem(path)
            return fs.open(inner, "rb")  # type: ignore[no-any-return]
    return _open_local(path)


def _open_local(path: str, buffering: int = -1) -> IO[bytes]:
    path = path.removeprefix("file://")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)  # without O_NONBLOCK a pipe that nobody writes to would hang
    except FileNotFoundError as error:
        raise MissingFileError(f"No such file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise InputError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise InputError(f"{path} is {kind}, not a file")
    return open(descriptor, "rb", buffering=buffering)


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _filesystem(path: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it); a fresh look-up gives a forked process its own connection."""
    return fsspec.core.url_to_fs(check_url(path))  # type: ignore[no-any-return]


@contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    """What the many clients raise, as errors of ours."""
    try:
        yield
    except XVLMError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"No such file: {path}") from error
    except ImportError as error:
        needed = PROTOCOLS.get(path.partition("://")[0])
        raise MissingPackageError(f"reading {path!r} needs {needed} ({error})") from error
    except Exception as error:  # every client has errors of its own
        raise InputError(f"{path!r} cannot be read: {type(error).__name__}: {error}") from error


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; fewer where the file ends before.  Raises as `open_binary`."""
    if is_remote(path):
        with _remote_errors(path):
            fs, inner = _filesystem(path)
            return fs.cat_file(inner, start=offset, end=offset + size)  # type: ignore[no-any-return]
    with _open_local(path, buffering=0) as file:
        file.seek(offset)
        parts = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def read_all(path: str) -> bytes:
    """The whole file.  Raises as `open_binary`."""
    with open_binary(path) as file:
        return file.read()


def read_image(path: str, trusted: bool = False) -> bytes:
    """The whole of an image's file, within `Limits.max_file_bytes` and, if it is remote, a limit of time.

    Args:
        trusted: a person typed the path: its host may be private.
    Raises:
        MissingFileError, MissingPackageError: as `open_binary`.
        InputError: as `open_binary`, and for a file that is too large or comes too slowly.
    """
    limits = current()
    if not is_remote(path):
        with _open_local(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limits.max_file_bytes:
                data = read_at_most(file, limits.max_file_bytes, size)
                if len(data) <= limits.max_file_bytes:
                    return data
    elif check_url(path).startswith(("http://", "https://")):
        return remote.fetch(path, trusted)
    else:
        with _remote_errors(path):
            if path.startswith("hdfs://") and not trusted:
                remote.check_host(path)
            data = remote.within(limits.read_seconds, lambda: _read_remote(path, limits.max_file_bytes + 1))
        if len(data) <= limits.max_file_bytes:
            return data
    raise InputError(f"{path} has more than the {limits.max_file_bytes:,} bytes that are read of an image")


def read_at_most(file: IO[bytes], most: int, expected: int = 0) -> bytes:
    """The rest of a file; of one that has more than `most` bytes only a little more than that.

    Args:
        expected: bytes that it seems to have; files of /proc state 0.
    """
    # not `most`, for which memory would be taken; a device that has nothing to say answers None
    parts = [file.read(expected + 1) or b""]
    size = len(parts[0])
    while size <= most and (part := file.read(_CHUNK_BYTES)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _read_remote(path: str, most: int) -> bytes:
    fs, inner = _filesystem(path)
    return fs.cat_file(inner, start=0, end=most)  # type: ignore[no-any-return]


def state(path: str) -> FileState:
    """Size and time of last change.  Raises as `open_binary`."""
    if is_remote(path):
        with _remote_errors(path):
            fs, inner = _filesystem(path)
            return FileState(int(fs.info(inner)["size"]), 0)
    with _open_local(path) as file:
        found = os.fstat(file.fileno())
    return FileState(found.st_size, found.st_mtime_ns)


def join(root: str, path: str) -> str:
    """A path of a data file below `root`, unless it is absolute or a URL already.

    Raises BadRecord for a URL that is not allowed, see `check_named_by_data`.
    """
    if is_remote(check_named_by_data(path)) or path.startswith("file://") or os.path.isabs(path):
        return path
    if not is_remote(root):
        return os.path.join(root, path)
    remote.name_host(root)
    return f"{root.rstrip('/')}/{path}"


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
    pattern = pattern.removeprefix("file://")
    if os.path.isdir(pattern):
        inside = sorted(os.path.join(pattern, name) for name in os.listdir(pattern))
        return [path for path in inside if _is_data_file(path) and os.path.isfile(path)]
    # a name that exists is itself, whatever brackets it holds
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def _expand_remote(pattern: str) -> list[str]:
    with _remote_errors(pattern):
        fs, inner = _filesystem(pattern)
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
