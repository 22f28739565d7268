"""A cache of the values that were used last, within a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """The values used last; several threads may use it.

    Attributes:
        budget: bytes that the values may take.
        bytes: bytes that they take.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable) -> V | None:
        """Return a value, or `None` if it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Add a value of `size` bytes, and drop those that were used longest ago while they do not fit."""
        with self._lock:
            if key in self._values:
                self.bytes -= self._values.pop(key)[1]
            self._values[key] = value, size
            self.bytes += size
            while self.bytes > self.budget:
                self.bytes -= self._values.popitem(last=False)[1][1]
