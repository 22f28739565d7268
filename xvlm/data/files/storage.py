"""Read files by path: local ones, and remote ones through fsspec (`s3://`, `hdfs://`, `https://`, ...).

Only the protocols of a fixed list are read and chains of protocols are refused, so no path makes fsspec run
code or read another file.  No file stays open between calls, so an object that holds paths can be forked and
pickled.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from xvlm.common.errors import InputError, MissingFileError, MissingPackageError, OutputError, XVLMError
from xvlm.data.files import http
from xvlm.data.files.limits import current_limits
from xvlm.records import BadRecord

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, glob or folder, local or remote, or a list of them."""


@dataclass(frozen=True)
class FileState:
    """Size and modification time of a version of a file; the unreliable times of remote files are 0."""

    bytes: int
    mtime_ns: int


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
SIDECARS = "_shards"
"""Folder beside shards with what `xvlm prepare` knows of each; readers leave out names with an underscore."""
_CHUNK_BYTES = 2**22
_BUFFER_BYTES = 2**16
_REMOTE_EXTRA = "the extra: pip install 'xvlm[remote]'"
PROTOCOLS = {
    **dict.fromkeys(("http", "https", "s3", "s3a"), _REMOTE_EXTRA),
    **dict.fromkeys(("gs", "gcs"), "the package gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "the package adlfs"),
    "hf": "a newer huggingface-hub",
    "hdfs": "the package pyarrow",
    "memory": "",
}
"""Allowed protocols, each with what it needs besides fsspec."""


def is_remote(path: str) -> bool:
    """Return whether a path is a URL of another protocol than `file`."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str) -> str:
    """Return a path from the root of its file system, without resolving symbolic links; URLs as they are."""
    return path if is_remote(path) else os.path.abspath(path.removeprefix("file://"))


def check_url(url: str) -> str:
    """Return the URL.  Raises InputError if it chains protocols, or if its protocol is not allowed."""
    protocol = url.partition("://")[0]
    if "::" in url:
        raise InputError(f"{url!r} chains protocols by '::', which is not allowed")
    if protocol not in PROTOCOLS:
        raise InputError(f"{url!r} has the protocol {protocol!r}; allowed are {', '.join(PROTOCOLS)}")
    return url


def check_data_path(path: str) -> str:
    """Return a path that a data file names.  Raises BadRecord for a URL that `Limits` does not allow."""
    if is_remote(path) and not current_limits().allow_remote:
        detail = f"{path!r}; --allow-remote allows URLs in data files"
        raise BadRecord("remote image is not allowed", "", detail)
    return path


def open_binary(path: str) -> IO[bytes]:
    """Open a file for reading and seeking.

    Raises:
        MissingFileError: the file does not exist.
        InputError: it is not a regular file (a folder, a device, a pipe), or cannot be read.
        MissingPackageError: its protocol needs a package that is not installed.
    """
    if is_remote(path):
        with _remote_errors(path):
            fs, inner = _filesystem(path)
            # `readline` of fsspec's files takes no limit; that of a BufferedReader does.
            return io.BufferedReader(fs.open(inner, "rb"), _BUFFER_BYTES)
    return _open_local(path)


def _open_local(path: str, buffering: int = -1) -> IO[bytes]:
    path = path.removeprefix("file://")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)  # without O_NONBLOCK, opening a pipe without a writer would hang
    except FileNotFoundError as error:
        raise MissingFileError(f"No such file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InputError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for is_kind, name in _FILE_KINDS if is_kind(mode)), "something else")
        raise InputError(f"{path} is {kind}, not a file")
    return open(descriptor, "rb", buffering=buffering)


_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _filesystem(path: str) -> tuple[Any, str]:
    """Return (file system, path in it), looked up anew so that a forked process gets its own connection."""
    return fsspec.core.url_to_fs(check_url(path))  # type: ignore[no-any-return]


@contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    """Context that turns the errors of all remote clients into ours."""
    try:
        yield
    except XVLMError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"No such file: {path}") from error
    except ImportError as error:
        needed = PROTOCOLS.get(path.partition("://")[0])
        raise MissingPackageError(f"reading {path!r} needs {needed} ({error})") from error
    except Exception as error:  # every client has error types of its own
        raise InputError(f"{path!r} cannot be read: {type(error).__name__}: {error}") from error


def read_range(path: str, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset`, or fewer if the file ends before.  Raises as `open_binary`."""
    if is_remote(path):
        with _remote_errors(path):
            return _read_remote(path, offset, offset + size)
    with _open_local(path, buffering=0) as file:
        file.seek(offset)
        parts = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    return b"".join(parts)


def read_all(path: str) -> bytes:
    """Read a whole file.  Raises as `open_binary`."""
    with open_binary(path) as file:
        return file.read()


def read_image(path: str, trusted: bool = False) -> bytes:
    """Read the file of an image within `Limits.max_file_bytes` and, if it is remote, a time limit.

    Args:
        trusted: the user typed the path, so its host may be private.
    Raises:
        MissingFileError, MissingPackageError: as `open_binary`.
        InputError: as `open_binary`, and if the file is too large or arrives too slowly.
    """
    limits = current_limits()
    if not is_remote(path):
        with _open_local(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limits.max_file_bytes:
                data = read_at_most(file, limits.max_file_bytes, size)
                if len(data) <= limits.max_file_bytes:
                    return data
    elif check_url(path).startswith(("http://", "https://")):
        return http.fetch(path, trusted)
    else:
        with _remote_errors(path):
            if path.startswith("hdfs://") and not trusted:
                http.check_host(path)
            end = limits.max_file_bytes + 1
            data = http.run_with_timeout(limits.read_seconds, lambda: _read_remote(path, 0, end))
        if len(data) <= limits.max_file_bytes:
            return data
    raise InputError(f"{path} has more than the {limits.max_file_bytes:,} bytes allowed for an image")


def read_at_most(file: IO[bytes], limit: int, expected: int = 0) -> bytes:
    """Read the rest of a file; if it has more than `limit` bytes, return slightly more than `limit` of them.

    Args:
        expected: size that the file claims; files of /proc claim 0.
    """
    # `limit` is not read at once, since that would allocate it; a device without data returns None.
    parts = [file.read(expected + 1) or b""]
    size = len(parts[0])
    # Each piece is as large as what was read before: a read allocates its size even at the end of the file.
    while size <= limit and (part := file.read(min(max(size, _BUFFER_BYTES), _CHUNK_BYTES))):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _read_remote(path: str, start: int, end: int) -> bytes:
    fs, inner = _filesystem(path)
    return fs.cat_file(inner, start=start, end=end)  # type: ignore[no-any-return]


def file_state(path: str) -> FileState:
    """Return size and modification time.  Raises as `open_binary`."""
    if is_remote(path):
        with _remote_errors(path):
            fs, inner = _filesystem(path)
            return FileState(int(fs.info(inner)["size"]), 0)
    with _open_local(path) as file:
        status = os.fstat(file.fileno())
    return FileState(status.st_size, status.st_mtime_ns)


def remote_version(url: str) -> tuple[str, int]:
    """Return a text that changes with a remote file, as far as its server tells, and the size of the file.

    Raises as `open_binary`.
    """
    with _remote_errors(url):
        fs, inner = _filesystem(url)
        return str(fs.ukey(inner)), int(fs.info(inner)["size"])


def download(url: str, path: str | os.PathLike[str]) -> None:
    """Copy a remote file to a local path.

    Raises as `open_binary`, and OutputError if the path cannot be written.
    """
    with _remote_errors(url):
        fs, inner = _filesystem(url)
        try:
            fs.get_file(inner, os.fspath(path))
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise OutputError(f"{os.fspath(path)} cannot be written: {error.strerror}") from error
            raise


def exists(path: str) -> bool:
    """Return whether there is a file or folder.  Raises as `open_binary` for a file system that fails."""
    if not is_remote(path):
        return os.path.exists(path.removeprefix("file://"))
    with _remote_errors(path):
        fs, inner = _filesystem(path)
        return bool(fs.exists(inner))


def list_names(folder: str) -> list[str]:
    """Return the names in a folder, without hidden ones, sorted; none if there is no such folder."""
    if not is_folder(folder):
        return []
    if not is_remote(folder):
        names = os.listdir(folder.removeprefix("file://"))
    else:
        with _remote_errors(folder):
            fs, inner = _filesystem(folder)
            names = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(inner, detail=False)]
    return sorted(name for name in names if not name.startswith("."))


def upload(path: str | os.PathLike[str], url: str) -> None:
    """Copy a local file to a URL; readers find the whole file or none.  Raises OutputError if that fails."""
    check_url(url)
    try:
        fs, inner = _filesystem(url)
        fs.put_file(os.fspath(path), inner)
    except ImportError as error:
        raise MissingPackageError(
            f"writing {url!r} needs {PROTOCOLS[url.partition('://')[0]]} ({error})"
        ) from error
    except Exception as error:  # every client has error types of its own
        raise OutputError(f"{url} cannot be written: {type(error).__name__}: {error}") from error


def remove(url: str) -> None:
    """Remove a file at a URL, if it is there."""
    with _remote_errors(url):
        fs, inner = _filesystem(check_url(url))
        if fs.exists(inner):
            fs.rm_file(inner)


def is_folder(path: str) -> bool:
    """Return whether a path or URL is a folder.  Raises as `open_binary` for a file system that fails."""
    if not is_remote(path):
        return os.path.isdir(path.removeprefix("file://"))
    if path.startswith(("http://", "https://")):
        return False  # a web server has no folders; fsspec would search the page for links
    with _remote_errors(path):
        fs, inner = _filesystem(path)
        return bool(fs.isdir(inner))


def find_remote(root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield URL and details, as fsspec gives them, of each file below a remote folder, sorted by URL."""
    with _remote_errors(root):
        fs, inner = _filesystem(root)
        found = fs.find(inner, detail=True)
    for path in sorted(found):
        yield fs.unstrip_protocol(path), found[path]


def join(root: str, path: str) -> str:
    """Return the path of a data file below `root`, or `path` itself if it is absolute or a URL.

    Raises BadRecord for a URL that is not allowed, see `check_data_path`.
    """
    if is_remote(check_data_path(path)) or path.startswith("file://") or os.path.isabs(path):
        return path
    if not is_remote(root):
        return os.path.join(root, path)
    http.trust_host(root)
    return f"{root.rstrip('/')}/{path}"


def display_name(paths: Paths) -> str:
    """Return the name of the paths in logs."""
    return os.fspath(paths) if isinstance(paths, (str, os.PathLike)) else display_name(paths[0])


def expand(spec: Paths) -> list[str]:
    """Return the files that a path, a glob, a folder (all its files) or a list of these names, globs sorted.

    Raises MissingFileError if one of them names no file.
    """
    if not isinstance(spec, (str, os.PathLike)):
        return [path for item in spec for path in expand(item)]
    pattern = os.fspath(spec)
    paths = _expand_remote(pattern) if is_remote(pattern) else _expand_local(pattern)
    if not paths:
        raise MissingFileError(f"no file matches {pattern!r}")
    return paths


def _expand_local(pattern: str) -> list[str]:
    pattern = pattern.removeprefix("file://")
    if os.path.isdir(pattern):
        inside = sorted(os.path.join(pattern, name) for name in os.listdir(pattern))
        described = SIDECARS in os.listdir(pattern)
        return [path for path in inside if _is_data_file(path, described) and os.path.isfile(path)]
    # The name of a file that exists is not read as a glob, even if it holds brackets.
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def _expand_remote(pattern: str) -> list[str]:
    with _remote_errors(pattern):
        fs, inner = _filesystem(pattern)
        if fs.isdir(inner):
            inside = sorted(fs.ls(inner, detail=False))
            described = any(path.rstrip("/").endswith(f"/{SIDECARS}") for path in inside)
            paths = [path for path in inside if _is_data_file(path, described) and fs.isfile(path)]
        else:
            paths = [inner] if fs.exists(inner) else sorted(fs.glob(inner))
        return [fs.unstrip_protocol(path) for path in paths]


def _is_data_file(path: str, described: bool) -> bool:
    """Return whether a path is neither a hidden file, a marker such as `_SUCCESS`, nor a tar index.

    Args:
        described: the folder has shards that `xvlm prepare` made, and a `dataset.json` that describes them.
    """
    name = path.rsplit("/", 1)[-1]
    if described and name == "dataset.json":
        return False
    return not name.startswith((".", "_")) and not name.endswith(".idx")
