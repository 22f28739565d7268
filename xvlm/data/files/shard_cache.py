"""Copies of remote shards on a local disk, from which the samples of many steps are read.

A thread copies a shard whole: before its samples are due (`prefetch`), or when the first one is read.  Until
the copy is there, samples are read from the shard by range, so nothing waits for it.  All processes of a
machine may share the folder: one of them copies a shard, and the others use the copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xvlm.common.errors import OutputError, XVLMError, printable
from xvlm.data.files import storage
from xvlm.data.files.limits import current_limits

SUFFIX = ".shard"
"""Suffix of the copies; no other file of the folder is ever removed."""
IN_USE_SECONDS = 600.0
"""A copy that was read within this time is not removed to make room for another one."""
_TOUCH_SECONDS = 60.0
_RETRY_SECONDS = 60.0
_THREADS = 2

_log = logging.getLogger(__name__)
_caches: dict[tuple[int, str, float], ShardCache] = {}


def read_range(path: str, offset: int, size: int) -> bytes:
    """Read a part of a file as `storage.read_range` does, or of the copy of a remote one."""
    cache = _current() if storage.is_remote(path) else None
    return storage.read_range(path, offset, size) if cache is None else cache.read_range(path, offset, size)


def prefetch(path: str) -> None:
    """Begin to copy a remote file that will be read soon; nothing happens without a cache."""
    if storage.is_remote(path) and (cache := _current()) is not None:
        cache.prefetch(path)


def _current() -> ShardCache | None:
    """Return the cache of this process, whose threads a fork does not have."""
    limits = current_limits()
    if not limits.shard_cache:
        return None
    key = (os.getpid(), limits.shard_cache, limits.shard_cache_gb)
    if key not in _caches:
        _caches.clear()
        _caches[key] = ShardCache(Path(limits.shard_cache), int(limits.shard_cache_gb * 1e9))
    return _caches[key]


class ShardCache:
    """Copies of remote files in a folder.

    Args:
        folder: folder of the copies, for this purpose alone.
        max_bytes: size of all copies, above which the one that was read least recently is removed.
    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"shard_cache {folder} cannot be written: {error.strerror}") from error
        self._copies: dict[str, Path] = {}
        self._touched: dict[str, float] = {}
        self._requested: dict[str, float] = {}
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Threads that do not end with the process would be waited for; these may stop at any moment.
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def prefetch(self, url: str) -> None:
        """Begin to copy a file, unless that was begun, or failed within a minute."""
        if url not in self._copies and self._requested.get(url, 0.0) < time.monotonic():
            self._requested[url] = float("inf")
            self._waiting.put(url)

    def read_range(self, url: str, offset: int, size: int) -> bytes:
        """Read a part of a file from its copy, or else from the file itself.  Raises as `open_binary`."""
        path = self._copies.get(url)
        if path is not None:
            try:
                self._touch(url, path)
                return storage.read_range(str(path), offset, size)
            except FileNotFoundError:  # another process needed the room
                del self._copies[url]
                self._requested.pop(url, None)
        self.prefetch(url)
        return storage.read_range(url, offset, size)

    def _touch(self, url: str, path: Path) -> None:
        """Set the time of a copy, by which the one that is not needed any more is found."""
        now = time.monotonic()
        if now - self._touched.get(url, 0.0) > _TOUCH_SECONDS:
            self._touched[url] = now
            os.utime(path)

    def _work(self) -> None:
        while True:
            url = self._waiting.get()
            try:
                self._copies[url] = self._copy(url)
            except (XVLMError, OSError) as error:
                _log.warning("%s is read by range, as it cannot be copied: %s", printable(url), error)
            # A copy that another process removes is made again; one that failed is tried again later.
            self._requested[url] = time.monotonic() + _RETRY_SECONDS

    def _copy(self, url: str) -> Path:
        """Return the path of a file's copy, which is made unless it is there."""
        version, size = storage.remote_version(url)
        name = hashlib.sha256(f"{url}\n{version}\n{size}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}{SUFFIX}"
        with _locked(path.with_suffix(".partial")) as partial:
            if not path.exists():
                self._make_room(size)
                storage.download(url, partial)
                if (found := partial.stat().st_size) != size:
                    raise OutputError(f"the copy has {found:,} of {size:,} bytes")
                partial.rename(path)
        os.utime(path)
        return path

    def _make_room(self, size: int) -> None:
        """Remove copies that were not read for a while.  Raises OutputError if there is still no room."""
        copies = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another process makes room, too
                copies.append((path.stat().st_mtime, path.stat().st_size, path))
        total = size + sum(held for _, held, _ in copies)
        for mtime, held, path in sorted(copies):
            if total <= self.max_bytes or time.time() - mtime < IN_USE_SECONDS:
                break
            path.unlink(missing_ok=True)
            total -= held
        if total > self.max_bytes:
            raise OutputError(
                f"shard_cache_gb is {self.max_bytes / 1e9:g}, and the shards in use need {total / 1e9:.3g}"
            )


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Yield a path that this process alone writes to; another one that wants to waits, also in a thread.

    The lock is the kernel's, so a process that is killed leaves a file that the next one writes anew.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_it = path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino
            if is_it:
                try:
                    yield path
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)
