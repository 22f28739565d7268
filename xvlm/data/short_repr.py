"""A value from somebody else's file as an error message shows it: short, whatever its size or shape."""

from __future__ import annotations

import reprlib
from itertools import islice
from typing import Any

LONGEST = 80
"""Characters that are shown."""
_LONGEST_INT_BITS = 256


def short_repr(value: Any, longest: int = LONGEST) -> str:
    """`repr(value)` of at most `longest` characters, at the cost of what is shown.

    Only the first few items of the first levels are looked at, so a structure that holds itself, or one of a
    few bytes that would print as billions of characters, costs no more than another.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


class _Short(reprlib.Repr):
    """Few items on few levels; a dict in its own order, since sorting would compare its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 5

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}" if value else "{}"
        shown = [
            f"{self.repr1(key, level - 1)}: {self.repr1(inner, level - 1)}"
            for key, inner in islice(value.items(), self.maxdict)
        ]
        return "{" + ", ".join(shown + ["..."] * (len(value) > self.maxdict)) + "}"

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > _LONGEST_INT_BITS:
            return f"<a whole number of {value.bit_length()} bits>"
        return repr(value)

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxother]) + ("..." if len(value) > self.maxother else "")

    def repr_set(self, value: Any, level: int) -> str:
        return f"<a set of {len(value)}>"

    def repr_frozenset(self, value: Any, level: int) -> str:
        return self.repr_set(value, level)  # not sorted, as in the base class

    def repr_instance(self, value: Any, level: int) -> str:
        kind = type(value).__name__
        return repr(value) if value is None or isinstance(value, (bool, float, complex)) else f"<{kind}>"


_SHORT = _Short()
