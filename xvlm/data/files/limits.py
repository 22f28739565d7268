"""Limits on images and remote files, shared by the whole process and its data workers.

A command calls `set_limits` or `change_limits` once, when it starts; readers call `current_limits`.  A forked
worker inherits the limits; `worker_init_fn` carries them into spawned workers too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from xvlm.common.errors import InputError

BIT_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Limits:
    """Limits on what is read.

    Attributes:
        max_pixels: largest width x height of an image.
        max_file_bytes: largest encoded size of an image, local or remote.
        significant_bits: bit depth of images that are stored with 16 bits per channel; 0: the smallest of 8,
            10, 12, 14 and 16 that holds the largest value of the image.
        allow_remote: data files may name images by URL.  What the user types (an image, `--data`, an image
            root) may be remote without it.
        allow_private: a URL may lead to a private, loopback or link-local address.
        connect_seconds, read_seconds: time to connect to the server of a remote image, and in total.
        max_redirects: most redirects for a remote image.
        shard_cache: local folder for copies of remote tar shards (`shard_cache.py`); empty: there are none.
        shard_cache_gb: size of all copies in gigabytes.
    """

    max_pixels: int = 100_000_000
    max_file_bytes: int = 512 * 2**20
    significant_bits: int = 0
    allow_remote: bool = False
    allow_private: bool = False
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    max_redirects: int = 5
    shard_cache: str = ""
    shard_cache_gb: float = 100.0

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise InputError(f"max_pixels is {self.max_pixels}; it must be at least 1")
        if self.significant_bits and not 1 <= self.significant_bits <= 16:
            raise InputError(
                f"significant_bits is {self.significant_bits}; it must be 1 to 16, or 0 to detect the depth"
            )


_current = Limits()


def current_limits() -> Limits:
    """Return the limits of this process."""
    return _current


def set_limits(limits: Limits) -> None:
    """Set the limits of this process and of the workers that it starts afterwards."""
    global _current
    _current = limits


def change_limits(**fields: Any) -> None:
    """Change some of the limits of this process and of the workers that it starts afterwards."""
    set_limits(replace(current_limits(), **fields))


@contextmanager
def temporary_limits(**fields: Any) -> Iterator[Limits]:
    """Context in which some of the limits are changed."""
    before = current_limits()
    set_limits(replace(before, **fields))
    try:
        yield current_limits()
    finally:
        set_limits(before)


def worker_init_fn(start: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """Return the `worker_init_fn` of a DataLoader: it sets the current limits, then calls `start(worker)`."""
    return partial(_start_worker, current_limits(), start)


def _start_worker(limits: Limits, start: Callable[[int], None] | None, worker: int) -> None:
    set_limits(limits)
    if start is not None:
        start(worker)
