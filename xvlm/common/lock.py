"""A lock on a folder.  A second process gets an error that names the first.

The lock is the kernel's (`flock`), so it ends with the process, even if that is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xvlm.common.atomic import writing
from xvlm.common.errors import OutputError
from xvlm.common.terminal import print_notice

LOCK = ".xvlm.lock"


class FolderLock:
    """A lock that this process holds, on a file in the folder."""

    def __init__(self, folder: Path, shared: bool) -> None:
        """Create the folder if needed, and lock it.  Raises OutputError if another process holds the lock."""
        self.folder, self.path = folder, folder / LOCK
        self.created = [one for one in (folder, *folder.parents) if not one.exists()]
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        while True:
            with writing(self.path):
                self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._acquire(shared)
            if _is_same_file(self.path, self.descriptor):
                break
            os.close(self.descriptor)  # the holder removed the file between our open and our lock
        _descriptors.add(self.descriptor)
        if not shared:
            self._write_holder()

    def make_exclusive(self) -> None:
        """Turn a shared lock into an exclusive one.  Raises OutputError if other processes share it."""
        self._acquire(shared=False)
        self._write_holder()

    def make_shared(self) -> None:
        """Turn an exclusive lock into a shared one."""
        self._acquire(shared=True)

    def release(self) -> None:
        """Release the lock, and remove the file of an exclusive lock and the folders that are still empty."""
        if self.descriptor < 0:  # the lock was lost to another process
            return
        _descriptors.discard(self.descriptor)
        if not self.shared and _is_same_file(self.path, self.descriptor):
            self.path.unlink()
        os.close(self.descriptor)
        for folder in self.created:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def _acquire(self, shared: bool) -> None:
        self.shared = shared
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(self.path)
            _descriptors.discard(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1
            raise OutputError(
                f"{self.folder} is in use by {holder}; wait for it or stop it, or name another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            print_notice(f"{self.folder} cannot be locked ({error.strerror}): start nothing else there")

    def _write_holder(self) -> None:
        """Write into the file which process holds the lock."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with writing(self.path):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps(holder).encode() + b"\n", 0)


_descriptors: set[int] = set()
_held: dict[Path, FolderLock] = {}


def _close_in_worker() -> None:
    """Close the descriptors after a fork, so that a worker does not keep the lock of a killed process."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_worker)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # the holder is still writing it
        return "another process"


@contextmanager
def folder_lock(folder: Path, shared: bool = False) -> Iterator[FolderLock]:
    """Hold the lock of `folder`, which is created if needed.  A nested call in the same process reuses it.

    Args:
        shared: whether other processes may hold a shared lock at the same time.
    Raises:
        OutputError: another process holds the lock.
    """
    resolved = Path(os.path.realpath(folder))  # unlike `resolve`, it takes links that form a loop
    if resolved in _held:
        yield _held[resolved]
        return
    lock = _held[resolved] = FolderLock(folder, shared)
    try:
        yield lock
    finally:
        _held.pop(resolved, None)
        lock.release()
