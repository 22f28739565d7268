"""Atomic writes of files and folders: readers find the old content or the new one, never a part.

The new content is written next to the target, under a temporary name with host and process, and then renamed.
A process that is killed leaves its temporary file behind; the next writer of the same target removes it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from xvlm.common.errors import OutputError
from xvlm.common.terminal import print_notice

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CLOCK_ERROR = 2.0
"""Seconds by which the clocks of processes and of files may differ: one is in whole seconds."""

_TEMPORARY = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.\d+\.(?:partial|replaced)")
_SAFETENSORS_TEMPORARY = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""Name of the file that `safetensors` writes before it has its name; a process that is killed leaves it."""
_HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
_numbers = itertools.count()
_in_use: set[Path] = set()
"""Temporary paths that this process is writing to."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise OutputError, with the name `path`, for a full disk or a missing permission in the block."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}") from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` if the block succeeds.

    Raises OutputError if the file cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as partial:
            yield partial
            _fsync(partial)
            partial.replace(path)


@contextmanager
def atomic_folder(folder: Path, files: Container[str]) -> Iterator[Path]:
    """Yield a new, empty folder to write into, which replaces `folder` if the block succeeds.

    At every moment a reader finds the old folder or the new one.  The caller has checked that an old folder
    may be replaced.

    Args:
        files: names of the files that are removed with an old folder.  Any other file in it survives, under a
            temporary name.
    Raises:
        OutputError: the folder cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        restore_folder(folder)
        with _temporary(folder, files) as partial:
            partial.mkdir()
            yield partial
            mode = partial.stat().st_mode & 0o666  # follow the umask; safetensors creates private files
            for path in partial.iterdir():
                path.chmod(mode)
                _fsync(path)
            _fsync(partial)
            _replace_folder(partial, folder, files)
        _fsync(folder.parent)


def _replace_folder(partial: Path, folder: Path, files: Container[str]) -> None:
    if not folder.exists():
        partial.replace(folder)
        return
    old = partial
    if not _exchange(partial, folder):
        # Between these two renames, readers find the old folder through `current_folder`.
        old = _temporary_path(folder, "replaced")
        folder.replace(old)
        partial.replace(folder)
    _remove(old, files)
    if old.exists():
        print_notice(f"{folder} was replaced; files that were added to it meanwhile are in {old}")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step.  Return False if the system or its file system cannot do that."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(a), os.fsencode(b)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def current_folder(folder: Path) -> Path:
    """Return `folder`, or the old folder if a writer is, or was killed, between its two renames."""
    replaced = [] if folder.exists() else sorted(folder.parent.glob(f".{folder.name}.*.replaced"))
    return replaced[-1] if replaced and not folder.exists() else folder


def restore_folder(folder: Path) -> None:
    """Give the old folder its name back if a writer was killed between its two renames."""
    current = current_folder(folder)
    if current != folder and _is_stale(current):
        current.replace(folder)


@contextmanager
def _temporary(path: Path, files: Container[str] = ()) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and remove it afterwards, with those of dead processes."""
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        if _is_stale(stale):
            _remove(stale, files)
    partial = _temporary_path(path, "partial")
    _in_use.add(partial)
    try:
        yield partial
    finally:
        _remove(partial, files)
        _in_use.discard(partial)


def _temporary_path(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{next(_numbers)}.{kind}")


def _is_stale(path: Path) -> bool:
    """Return whether the process that wrote a temporary path ran on this host and has ended."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or match["host"] != _HOST:
        return False
    pid = int(match["pid"])
    if pid == os.getpid():  # an earlier process may have had the same number
        return path not in _in_use and path.name.endswith(".partial")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return _is_younger(pid, path)


def _is_younger(pid: int, path: Path) -> bool:
    """Return whether a process or thread began after a file was written: the writer had its number before.

    Where the system does not tell, the answer is no.
    """
    try:
        modified = path.lstat().st_mtime
        # The second word is a name in parentheses, which may hold anything.
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return False
    return booted + ticks / os.sysconf("SC_CLK_TCK") > modified + _CLOCK_ERROR


def _remove(path: Path, files: Container[str]) -> None:
    """Remove a temporary file, or a temporary folder except for files that are not named in `files`."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for inner in path.iterdir():
        is_temporary = _TEMPORARY.fullmatch(inner.name) or _SAFETENSORS_TEMPORARY.fullmatch(inner.name)
        if inner.name in files or is_temporary:
            inner.unlink()
    if not any(path.iterdir()):
        path.rmdir()


def _fsync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a rename never survives a crash without the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that is appended to: each `write` reaches the system at once, completely or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes) -> None:
        """Append `data`.  If the disk is full, undo a partial write and raise OutputError."""
        size = os.fstat(self._descriptor).st_size
        try:
            with writing(self.path):
                write_all(data, lambda rest, done: os.write(self._descriptor, rest))
        except OutputError:
            os.ftruncate(self._descriptor, size)
            raise

    def flush(self) -> None:
        """Flush the file to the disk."""
        with writing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def write_all(data: bytes | memoryview, write: Callable[[memoryview, int], int]) -> None:
    """Call `write(rest, bytes_done)`, which returns the number of bytes it wrote, until all are written."""
    rest, done = memoryview(data), 0
    while rest:
        count = write(rest, done)
        rest, done = rest[count:], done + count
