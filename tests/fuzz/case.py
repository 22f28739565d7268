"""What a fuzz case is: an input in a folder of its own, and what is called with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARKER = "EXECUTED"


@dataclass(frozen=True)
class Box:
    """Where a case lives.

    Attributes:
        root: holds `case`, and what must stay as it is: `canary`, `home`.
        folder: `root/case`, the working folder; anything may be written here.
        kit: models, runs and photographs that every case may read.
    """

    root: Path
    kit: Path

    @property
    def folder(self) -> Path:
        return self.root / "case"

    @property
    def marker(self) -> Path:
        """The file that hostile input makes if it is executed."""
        return self.root / MARKER


@dataclass(frozen=True)
class Command:
    """A call of the command line; it may end with exit code 0 or 2.

    Attributes:
        network: who typed it asked for an address.
        may_add: new files may be made where `--out` says; nothing that was there may change or go.
    """

    words: tuple[str, ...]
    network: bool = False
    may_add: bool = False

    @classmethod
    def of(cls, *words: object, network: bool = False) -> Command:
        return cls(tuple(map(str, words)), network)


@dataclass(frozen=True)
class Reading:
    """A call of a reader; it may return, or raise an XVLMError.

    Attributes:
        what: for the list of failures.
        network: the person named an address, not a file.
    """

    what: str
    function: Callable[[], object]
    network: bool = False


Call = Command | Reading
Generator = Callable[[random.Random, Box], Call]
"""Writes an input into `box.folder`, and says what to call: a function of the generator's state alone."""
