"""A short `repr` of any value, for error messages about untrusted data."""

from __future__ import annotations

import reprlib
from itertools import islice
from typing import Any

_MAX_INT_BITS = 256


def short_repr(value: Any, longest: int = 80) -> str:
    """Return `repr(value)`, abbreviated to at most `longest` characters.

    Only the first items of the outer levels are visited: a structure that contains itself, or a small one
    that would print as billions of characters, costs no more than any other.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


class _Short(reprlib.Repr):
    """Limits items and levels.  A dict keeps its order, because sorting would compare untrusted keys."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 5

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}" if value else "{}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(inner, level - 1)}"
            for key, inner in islice(value.items(), self.maxdict)
        ]
        return "{" + ", ".join(items + ["..."] * (len(value) > self.maxdict)) + "}"

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > _MAX_INT_BITS:
            return f"<a whole number of {value.bit_length()} bits>"
        return repr(value)

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxother]) + ("..." if len(value) > self.maxother else "")

    def repr_set(self, value: Any, level: int) -> str:
        return f"<a set of {len(value)}>"

    def repr_frozenset(self, value: Any, level: int) -> str:
        return self.repr_set(value, level)  # the base class would sort

    def repr_instance(self, value: Any, level: int) -> str:
        if value is None or isinstance(value, (bool, float, complex)):
            return repr(value)
        return f"<{type(value).__name__}>"


_SHORT = _Short()
