"""Strict JSON parser for data files: any Unicode encoding, and nothing that is not JSON.

Python's parser accepts `NaN`, keeps the last of two values with the same name, and accepts half of a
surrogate pair.  Here each of these is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xvlm.common.short_repr import short_repr
from xvlm.records import BadRecord

INVALID_UNICODE = "text is not valid Unicode"
"""Reason of a bad record; the most common case is half of an emoji, `\\ud83d`."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


class _Fault:
    """A placeholder in a parsed value for something that is not JSON."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


class _Parser:
    """Python's parser, which puts a `_Fault` where the text is not JSON, and then sets `has_faults`."""

    def __init__(self) -> None:
        self.has_faults = False
        self.parse = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant
        ).raw_decode

    def _fault(self, detail: str) -> _Fault:
        self.has_faults = True
        return _Fault(detail)

    def _constant(self, name: str) -> _Fault:
        return self._fault(f"{name} is not JSON; an unknown value is null")

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        fields = dict(pairs)
        if len(fields) == len(pairs):
            return fields
        ((duplicate, _),) = Counter(name for name, _ in pairs).most_common(1)
        return self._fault(f"the name {short_repr(duplicate)} occurs more than once in one object")


@dataclass(frozen=True)
class ParsedJson:
    """The JSON values of a text, not yet checked.

    Attributes:
        values: one value, or several that follow each other.
        has_faults: whether a value may hold a placeholder for something that is not JSON.
        has_surrogates: whether a text in a value may hold half of a surrogate pair.
    """

    values: list[Any]
    has_faults: bool
    has_surrogates: bool

    def check(self, value: Any, what: str, key: str) -> Any:
        """Return one of the values, or an item of one.  Raises BadRecord if it is not JSON."""
        for leaf in _leaves(value) if self.has_faults or self.has_surrogates else ():
            if isinstance(leaf, _Fault):
                raise BadRecord(f"{what} is not JSON", key, leaf.detail)
            _check_leaf(leaf, key)
        return value

    def check_items(self, items: list[Any], path: str) -> list[Any]:
        """Return items of one of the values; each item that is not JSON is replaced by a `BadRecord`."""
        if not (self.has_faults or self.has_surrogates):
            return items
        checked = []
        for number, item in enumerate(items):
            try:
                checked.append(self.check(item, "record", f"{path}[{number}]"))
            except BadRecord as error:
                checked.append(error)
        return checked


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded, that is, holds no half of a surrogate pair."""
    return text.isascii() or _SURROGATE.search(text) is None


def check_unicode(value: Any, key: str) -> None:
    """Raise BadRecord if a text anywhere in a plain value cannot be encoded."""
    for leaf in _leaves(value):
        _check_leaf(leaf, key)


def _check_leaf(leaf: Any, key: str) -> None:
    if isinstance(leaf, str) and not is_unicode(leaf):
        raise BadRecord(INVALID_UNICODE, key, short_repr(leaf))


def parse_value(text: str | bytes, what: str = "text", key: str = "") -> Any:
    """Parse a text that holds one JSON value.

    Args:
        what: name of the text in the reason: "line" gives "line is not JSON".
        key: key of the record in errors.
    Raises:
        BadRecord: the text is not JSON, is nested too deeply, or is not valid Unicode.
    """
    parsed = parse_values(text, what, key, several=False)
    return parsed.check(parsed.values[0], what, key)


def parse_values(text: str | bytes, what: str, key: str = "", several: bool = True) -> ParsedJson:
    """Parse a text that holds one JSON value, or several that follow each other.

    Raises BadRecord if it cannot be parsed; `ParsedJson.check` finds the remaining faults.
    """
    reason, parser = f"{what} is not JSON", _Parser()
    values: list[Any] = []
    try:
        text = decode_unicode(text) if isinstance(text, bytes) else text
        position = _skip_space(text, 0)
        while not values or position < len(text):
            if values and not several:
                raise json.JSONDecodeError("Extra data", text, position)
            value, position = parser.parse(text, position)
            values.append(value)
            position = _skip_space(text, position)
    except RecursionError as error:
        raise BadRecord(reason, key, "it is nested too deeply") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start : error.start + 1]
        raise BadRecord(reason, key, f"byte {error.start}, {byte!r}, is not {error.encoding}") from error
    except ValueError as error:
        raise BadRecord(reason, key, str(error)) from error
    return ParsedJson(values, parser.has_faults, _ESCAPED_SURROGATE.search(text) is not None)


def decode_unicode(data: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32.  Raises UnicodeDecodeError."""
    return data.decode(detect_encoding(data))


def detect_encoding(head: bytes) -> str:
    """Return the Unicode encoding of a JSON text by its byte order mark or its zero bytes; else UTF-8."""
    return json.detect_encoding(head[:4])


def _leaves(value: Any) -> Iterator[Any]:
    """Yield everything in a parsed value that is neither a list nor an object, including names."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        else:
            yield item


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()
