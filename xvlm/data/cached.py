"""Records kept in memory once they have been read or drawn, for sources that are small and slow."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.data.sources import Source
from xvlm.records import Record


class CachedSource:
    """A source whose records stay in the memory of each process that reads them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept: dict[int, Record] = {}

    @property
    def name(self) -> str:
        """The source's own."""
        return self.source.name

    @property
    def shards(self) -> Sequence[int]:
        """The source's own."""
        return self.source.shards

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Record:
        """As the source's; a bad record is asked for again each time."""
        if index not in self._kept:
            self._kept[index] = self.source[index]
        return self._kept[index]
