"""The interface of data sources: random access to records.

A source has a length and the sizes of its storage blocks, so the sample order can be a pure function of the
seed and still read from a small number of files at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from xvlm.records import Record


class Source(Protocol):
    """Records by index."""

    @property
    def name(self) -> str:
        """Name of the source in logs."""

    @property
    def shards(self) -> Sequence[int]:
        """Number of records in each storage block (file), in order; their sum is the length."""

    def __len__(self) -> int:
        """Return the number of records, including bad ones."""

    def __getitem__(self, index: int, /) -> Record:
        """Return a record.  Raises BadRecord if it cannot be read, IndexError outside [0, len)."""


def prefetch(source: Source, index: int) -> None:
    """Tell a source that a record will be read soon; those with remote files have a method for that."""
    begin = getattr(source, "prefetch", None)
    if begin is not None:
        begin(index)


class IndexedSource:
    """Base class of sources whose records lie in shards; subclasses define `__getitem__`."""

    def __init__(self, name: str, shards: Sequence[int]) -> None:
        self.name = name
        self.shards = shards
        self._ends = np.cumsum(shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Return (shard, index in the shard) of a record.  Raises IndexError if there is no such record."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a source that has {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)


class WrappedSource:
    """Base class of sources that change the records of another one; subclasses define `__getitem__`."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def name(self) -> str:
        """Name of the wrapped source."""
        return self.source.name

    @property
    def shards(self) -> Sequence[int]:
        """Shards of the wrapped source."""
        return self.source.shards

    def __len__(self) -> int:
        return len(self.source)

    def prefetch(self, index: int) -> None:
        """Tell the wrapped source that a record will be read soon."""
        prefetch(self.source, index)


Opener = Callable[[str, Mapping[str, str], str | None], Source]
"""A function `open_source(rest, options, image_root)` that opens `scheme:rest?option=value`."""
