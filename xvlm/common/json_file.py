"""Reading and writing JSON files.  An error names the file, the line and the column."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm.common.atomic import atomic_file
from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr

MAX_BYTES = 1 << 29
"""Size limit.  Larger files are data sets, which are read record by record."""

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)


def read_json(path: str | Path, kind: type = dict, allow_nan: bool = False) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32.

    Args:
        kind: required type of the value, `dict` or `list`.
        allow_nan: whether to accept NaN, Infinity and -Infinity, which JSON does not have but Python writes.
    Raises:
        FileNotFoundError: the file does not exist.
        InputError: the file is a folder or a device, too large, or not JSON; or its value has another type.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a folder or a device; it must be a JSON file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path} has {size} bytes; a JSON file may have {MAX_BYTES}")
    value = parse_json(path.read_bytes(), str(path), allow_nan)
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        found = "an object" if isinstance(value, dict) else short_repr(value)
        raise InputError(f"{path} holds {found}; it must hold {expected}")
    return value


def parse_json(data: bytes, name: str, allow_nan: bool = False) -> Any:
    """Parse the bytes of a JSON file; errors call the file `name`.

    Raises InputError for bytes that are not text or not JSON.
    """
    if not data.strip():
        raise InputError(f"{name} is empty; it must hold JSON")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: byte {error.start} cannot be decoded") from error
    try:
        return json.loads(text, parse_constant=None if allow_nan else _reject_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply") from error
    except _ConstantError as error:
        raise InputError(
            f"{name} is not JSON: {_position_of_constant(text)}: {error} is not a JSON number"
        ) from error
    except ValueError as error:  # Python refuses integers of more than 4,300 digits
        raise InputError(f"{name} cannot be read: {error}") from error


class _ConstantError(ValueError):
    """The text holds NaN, Infinity or -Infinity."""


def _reject_constant(constant: str) -> None:
    raise _ConstantError(constant)


def _position_of_constant(text: str) -> str:
    """Return line and column of the first NaN or Infinity that is not inside a string."""
    for match in _STRING_OR_CONSTANT.finditer(text):
        if not match.group().startswith('"'):
            before = text[: match.start()]
            return f"line {before.count(chr(10)) + 1}, column {match.start() - before.rfind(chr(10))}"
    return "somewhere"


def to_json(value: Any) -> Any:
    """Convert a tree of dataclasses, mappings, lists and tuples to plain JSON values."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return value


def json_text(value: Any, indent: int | None = None) -> str:
    """Format a value as JSON that every parser accepts: a number that is not finite becomes null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)  # plain finite values are the usual case
    except (TypeError, ValueError):
        return json.dumps(_null_if_not_finite(to_json(value)), indent=indent, allow_nan=False)


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_if_not_finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_null_if_not_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; see `json_text` and `write_text`."""
    write_text(path, json_text(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.  Raises OutputError if it cannot be written."""
    with atomic_file(path) as partial:
        # A lone surrogate, such as half an emoji in a record, has no encoding.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
