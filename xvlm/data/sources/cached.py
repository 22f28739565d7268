"""Cache the records of a source in memory, for sources that are small but slow to read or render."""

from __future__ import annotations

from collections.abc import Sequence

from xvlm.data.sources.source import Source
from xvlm.records import Record


class CachedSource:
    """A source whose records stay in the memory of each process that reads them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._cache: dict[int, Record] = {}

    @property
    def name(self) -> str:
        """Name of the cached source."""
        return self.source.name

    @property
    def shards(self) -> Sequence[int]:
        """Shards of the cached source."""
        return self.source.shards

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Record:
        """Return a record from the cache or the source; a bad record is not cached."""
        if index not in self._cache:
            self._cache[index] = self.source[index]
        return self._cache[index]
