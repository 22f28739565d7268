"""Limits of what is read from images and remote files: one set for the whole process and its data workers.

`set_limits` is called once, where a command starts; readers ask `current()`.  A forked worker inherits the
limits; `in_workers` carries them into spawned ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from xvlm.errors import InputError

BIT_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Limits:
    """What may be read.

    Attributes:
        max_pixels: width x height of an image.
        max_file_bytes: encoded size of an image, local or remote.
        significant_bits: of images that are stored in 16 bits a channel; 0: the smallest of 8, 10, 12, 14 and
            16 that holds the image's largest value.
        allow_remote: data files may name images by URL.  What a person types (an image, `--data`, an image
            root) may be remote without it.
        allow_private: a URL may lead to a private, loopback or link-local address.
        connect_seconds, read_seconds: for one remote image: to connect, and in all.
        max_redirects: of one remote image.
    """

    max_pixels: int = 100_000_000
    max_file_bytes: int = 512 * 2**20
    significant_bits: int = 0
    allow_remote: bool = False
    allow_private: bool = False
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    max_redirects: int = 5

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise InputError(f"max_pixels is {self.max_pixels}; it must be at least 1")
        if self.significant_bits and not 1 <= self.significant_bits <= 16:
            raise InputError(
                f"significant_bits is {self.significant_bits}; 1 to 16 is allowed, or 0 to look at each image"
            )


_current = Limits()


def current() -> Limits:
    """The limits of this process."""
    return _current


def set_limits(limits: Limits) -> None:
    """Set the limits of this process and of the workers that it starts from now on."""
    global _current
    _current = limits


def change_limits(**fields: Any) -> None:
    """Set some of the limits of this process, and of the workers that it starts from now on."""
    set_limits(replace(current(), **fields))


@contextmanager
def limited(**fields: Any) -> Iterator[Limits]:
    """The current limits with some fields changed, until the context ends."""
    before = current()
    set_limits(replace(before, **fields))
    try:
        yield current()
    finally:
        set_limits(before)


def in_workers(start: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """`worker_init_fn` of a DataLoader: a worker gets the limits of now, then does `start(worker)`."""
    return partial(_start_worker, current(), start)


def _start_worker(limits: Limits, start: Callable[[int], None] | None, worker: int) -> None:
    set_limits(limits)
    if start is not None:
        start(worker)
