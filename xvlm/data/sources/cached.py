"""Cache the records of a source in memory, for sources that are small but slow to read or render."""

from __future__ import annotations

from xvlm.data.sources.source import Source, WrappedSource
from xvlm.records import Record


class CachedSource(WrappedSource):
    """A source whose records stay in the memory of each process that reads them."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._cache: dict[int, Record] = {}

    def __getitem__(self, index: int, /) -> Record:
        """Return a record from the cache or the source; a bad record is not cached."""
        if index not in self._cache:
            self._cache[index] = self.source[index]
        return self._cache[index]
