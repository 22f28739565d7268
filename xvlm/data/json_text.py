"""JSON as other people's files hold it: any Unicode encoding, and nothing that JSON does not have.

Python's parser takes `NaN`, takes the last of two values of one name, and makes texts of half a character.
Each of these is a fault here, and is said.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xvlm.data import files
from xvlm.data.short_repr import short_repr
from xvlm.errors import InputError
from xvlm.records import BadRecord

INVALID_UNICODE = "text is not valid Unicode"
"""Reason of a bad record; the commonest case is half of an emoji, `\\ud83d`."""

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


class _Fault:
    """Stands in a parsed value where the text holds something that JSON does not have."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


class _Parser:
    """Python's parser; `faulty` says whether a `_Fault` stands in what it has made."""

    def __init__(self) -> None:
        self.faulty = False
        self.read = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant).raw_decode

    def _fault(self, detail: str) -> _Fault:
        self.faulty = True
        return _Fault(detail)

    def _constant(self, name: str) -> _Fault:
        return self._fault(f"{name} is no JSON; an unknown value is null")

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        return self._fault(f"the name {short_repr(twice)} stands more than once in one object")


@dataclass(frozen=True)
class Parsed:
    """JSON values that followed each other in a text.

    Attributes:
        faulty: a value that JSON does not have may stand in them.
        halves: half of a character may.
    """

    values: list[Any]
    faulty: bool
    halves: bool

    def checked(self, value: Any, what: str, key: str) -> Any:
        """One of the values, or an item of one.  Raises BadRecord if it holds a fault."""
        for one in _leaves(value) if self.faulty or self.halves else ():
            if isinstance(one, _Fault):
                raise BadRecord(f"{what} is not JSON", key, one.detail)
            if isinstance(one, str) and not is_unicode(one):
                raise BadRecord(INVALID_UNICODE, key, short_repr(one))
        return value

    def checked_items(self, items: list[Any], path: str) -> list[Any]:
        """Items of one of the values, with a `BadRecord` in the place of those that hold a fault."""
        if not (self.faulty or self.halves):
            return items
        found = []
        for number, item in enumerate(items):
            try:
                found.append(self.checked(item, "record", f"{path}[{number}]"))
            except BadRecord as error:
                found.append(error)
        return found


def is_unicode(text: str) -> bool:
    """Whether the text can be written at all: it holds no half of a surrogate pair."""
    return text.isascii() or _HALF.search(text) is None


def check_unicode(value: Any, key: str) -> None:
    """Raises BadRecord if a text anywhere in plain values cannot be written."""
    for one in _leaves(value):
        if isinstance(one, str) and not is_unicode(one):
            raise BadRecord(INVALID_UNICODE, key, short_repr(one))


def parse_json(text: str | bytes, what: str = "text", key: str = "") -> Any:
    """One JSON value.

    Args:
        what: is not JSON, in the reason: "line" gives "line is not JSON".
        key: of the record, in errors.
    Raises:
        BadRecord: it is not JSON, is nested too deeply, or is no valid Unicode.
    """
    parsed = parse_values(text, what, key, several=False)
    return parsed.checked(parsed.values[0], what, key)


def parse_values(text: str | bytes, what: str, key: str = "", several: bool = True) -> Parsed:
    """The JSON values that follow each other in a text, or the only one, not yet checked.

    Raises BadRecord.
    """
    reason, parser = f"{what} is not JSON", _Parser()
    found: list[Any] = []
    try:
        text = decoded(text) if isinstance(text, bytes) else text
        at = _end_of_space(text, 0)
        while not found or at < len(text):
            if found and not several:
                raise json.JSONDecodeError("Extra data", text, at)
            value, at = parser.read(text, at)
            found.append(value)
            at = _end_of_space(text, at)
    except RecursionError as error:
        raise BadRecord(reason, key, "it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise BadRecord(reason, key, _not_text(error)) from error
    except ValueError as error:
        raise BadRecord(reason, key, str(error)) from error
    return Parsed(found, parser.faulty, _ESCAPED_HALF.search(text) is not None)


def read_json(path: str) -> Any:
    """The one JSON value that a file holds.  Raises MissingFileError or InputError."""
    try:
        return parse_json(files.read_all(path))
    except BadRecord as error:
        raise InputError(f"{path} is no JSON: {error.detail}") from error


def decoded(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, told by the mark at its beginning or by where its zeros are.

    Raises UnicodeDecodeError.
    """
    return data.decode(encoding_of(data))


def encoding_of(head: bytes) -> str:
    """The Unicode encoding of a JSON text that begins so; UTF-8 is assumed where nothing else shows."""
    return json.detect_encoding(head[:4])


def _not_text(error: UnicodeDecodeError) -> str:
    found = error.object[error.start : error.start + 1]
    return f"byte {error.start}, {found!r}, is no {error.encoding}"


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a parsed value that is no list and no object, names included."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield from one
            left.extend(one.values())
        elif isinstance(one, list | tuple):
            left.extend(one)
        else:
            yield one


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
