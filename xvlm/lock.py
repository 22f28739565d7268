"""One process at a time in a folder: the second one is refused by name of the first.

The lock is the kernel's (`flock`): it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xvlm.errors import OutputError
from xvlm.terminal import notice
from xvlm.whole import writing

LOCK = ".xvlm.lock"


class FolderLock:
    """A lock that this process holds, on a file in the folder."""

    def __init__(self, folder: Path, shared: bool) -> None:
        """Raises OutputError, naming who has it, where another process does."""
        self.folder, self.path = folder, folder / LOCK
        self.made = [one for one in (folder, *folder.parents) if not one.exists()]
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        while True:
            with writing(self.path):
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._take(shared)
            if _is_still(self.path, self.handle):
                break
            os.close(self.handle)  # who had it removed the file before this process had it
        _handles[self.handle] = os.getpid()
        if not shared:
            self._sign()

    def make_exclusive(self) -> None:
        """From shared to alone.  Raises OutputError where others share it."""
        self._take(shared=False)
        self._sign()

    def make_shared(self) -> None:
        """Let others share it."""
        self._take(shared=True)

    def release(self) -> None:
        """Give it back; with it go its file, if it was held alone, and folders made and not used."""
        if self.handle < 0:  # it was lost
            return
        _handles.pop(self.handle, None)
        if not self.shared and _is_still(self.path, self.handle):
            self.path.unlink()
        os.close(self.handle)
        for folder in self.made:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def _take(self, shared: bool) -> None:
        self.shared = shared
        try:
            fcntl.flock(self.handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self.path)
            _handles.pop(self.handle, None)
            os.close(self.handle)
            self.handle = -1
            raise OutputError(
                f"{self.folder} is in use by {holder}; wait for it or stop it, or name another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            notice(f"{self.folder} cannot be locked ({error.strerror}): start nothing else there")

    def _sign(self) -> None:
        """Say who has it."""
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        with writing(self.path):
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, json.dumps(about).encode() + b"\n", 0)


_handles: dict[int, int] = {}
_held: dict[Path, FolderLock] = {}


def _close_in_worker() -> None:
    """A forked worker must not keep the lock of a process that was killed."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_worker)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text())
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[FolderLock]:
    """Hold the lock of `folder`, which is made if need be; a process that has it already goes on with it.

    Args:
        shared: several processes may hold it so, but none alone.
    Raises:
        OutputError: another process has it.
    """
    place = folder.resolve()
    if place in _held:
        yield _held[place]
        return
    lock = _held[place] = FolderLock(folder, shared)
    try:
        yield lock
    finally:
        _held.pop(place, None)
        lock.release()


@contextmanager
def locked_by_main(folder: Path) -> Iterator[None]:
    """`locked` by the main process for all ranks: where it is refused, all are."""
    from xvlm import dist  # here: a lock alone needs no torch

    dist.init()
    with ExitStack() as stack:
        dist.on_main(lambda: stack.enter_context(locked(folder)))
        yield
