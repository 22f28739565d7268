"""Files and folders that are written whole or not at all.

What is written stands beside its place under a name that holds host and process until it is complete; then it
takes its place in one step.  A process that was killed leaves such a partial name, which the next writer of
the same file or folder removes.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from xvlm.errors import OutputError
from xvlm.terminal import notice

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NAME = re.compile(r"\..+\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.\d+\.(?:partial|replaced)")
_numbers = itertools.count()
_own: set[Path] = set()
"""Partial names that this process is writing to."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns what a full disk or a missing permission raises into an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `path` at the end, or is removed if that fails.

    Raises OutputError where it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            yield partial
            to_disk(partial)
            partial.replace(path)


@contextmanager
def whole_folder(folder: Path, files: Collection[str]) -> Iterator[Path]:
    """A new, empty folder to write into; it takes the place of `folder` at the end, or is removed on failure.

    A reader finds the old folder or the new one, at every moment.  The caller has made sure that an old one
    may go: of it only `files` are removed, so that anything else in it would stay, under a partial name.

    Raises OutputError where it cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        restore(folder)
        with _partial(folder, files) as partial:
            partial.mkdir()
            yield partial
            mode = partial.stat().st_mode & 0o666  # as the umask says; safetensors makes files private
            for written in partial.iterdir():
                written.chmod(mode)
                to_disk(written)
            to_disk(partial)
            _take_place(partial, folder, files)
        to_disk(folder.parent)


def _take_place(partial: Path, folder: Path, files: Collection[str]) -> None:
    if not folder.exists():
        partial.replace(folder)
        return
    old = partial
    if not _exchange(partial, folder):
        # Between these two steps readers find the old folder through `standing`.
        old = _beside(folder, "replaced")
        folder.replace(old)
        partial.replace(folder)
    _remove(old, files)
    if old.exists():
        notice(f"{folder} was replaced; what came into it meanwhile is in {old}")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, where the system and its file system can."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(a), os.fsencode(b)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def standing(folder: Path) -> Path:
    """`folder`, or the old one where a process was killed (or is just) between its two renames."""
    replaced = [] if folder.exists() else sorted(folder.parent.glob(f".{folder.name}.*.replaced"))
    return replaced[-1] if replaced and not folder.exists() else folder


def restore(folder: Path) -> None:
    """Give an old folder its name back where a process was killed between its two renames."""
    found = standing(folder)
    if found != folder and _is_stale(found):
        found.replace(folder)


@contextmanager
def _partial(path: Path, files: Collection[str] = ()) -> Iterator[Path]:
    """A name beside `path` of which nothing is left at the end; those of dead processes go too."""
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        if _is_stale(stale):
            _remove(stale, files)
    partial = _beside(path, "partial")
    _own.add(partial)
    try:
        yield partial
    finally:
        _remove(partial, files)
        _own.discard(partial)


def _beside(path: Path, kind: str) -> Path:
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{next(_numbers)}.{kind}")


def _is_stale(partial: Path) -> bool:
    """Whether a process of this machine wrote it and has ended."""
    named = _NAME.fullmatch(partial.name)
    if named is None or named["host"] != re.sub(r"[^\w-]", "-", socket.gethostname()):
        return False
    pid = int(named["pid"])
    if pid == os.getpid():  # perhaps of an earlier process with this number
        return partial not in _own and partial.name.endswith(".partial")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _remove(partial: Path, files: Collection[str]) -> None:
    """A partial file, or of a partial folder what is known to be ours, and the folder if that is all."""
    if not partial.is_dir() or partial.is_symlink():
        partial.unlink(missing_ok=True)
        return
    for path in partial.iterdir():
        if path.name in files or _NAME.fullmatch(path.name):
            path.unlink()
    if not any(partial.iterdir()):
        partial.rmdir()


def to_disk(path: Path) -> None:
    """Flush a file or a folder, so that a rename never outlives a crash that the contents did not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class AppendFile:
    """A file that grows by whole pieces: each `write` reaches the system at once, in full or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, data: bytes) -> None:
        """Append.  Raises OutputError, and takes back what was written of it, where there is no room."""
        before = os.fstat(self._handle).st_size
        try:
            with writing(self.path):
                write_fully(data, lambda piece, done: os.write(self._handle, piece))
        except OutputError:
            os.ftruncate(self._handle, before)
            raise

    def flush(self) -> None:
        """Bring it to the disk."""
        with writing(self.path):
            os.fsync(self._handle)

    def close(self) -> None:
        """Write no more."""
        os.close(self._handle)


def write_fully(data: bytes | memoryview, write: Callable[[memoryview, int], int]) -> None:
    """Call `write(rest, bytes done)`, which says how much it took, until all of `data` is written."""
    rest, done = memoryview(data), 0
    while rest:
        taken = write(rest, done)
        rest, done = rest[taken:], done + taken
