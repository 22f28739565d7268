"""Reading a JSON file; an error names the file, the line and the column."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from xvlm.errors import InputError

MAX_BYTES = 1 << 29
"""Size limit.  Larger files are data sets, which are read record by record."""

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)


def read_json(path: str | Path, kind: type = dict, allow_nan: bool = False) -> Any:
    """The value in a JSON file, in UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Args:
        kind: what the value must be: `dict` or `list`.
        allow_nan: also take NaN, Infinity and -Infinity, which are no JSON but which Python writes.
    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is no file, too large, no text, no JSON, or holds a value of another kind.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a folder or a device; it must be a JSON file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path} has {size} bytes; a JSON file may have {MAX_BYTES}")
    value = parse_json(path.read_bytes(), str(path), allow_nan)
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        found = "an object" if isinstance(value, dict) else f"{value!r:.40}"
        raise InputError(f"{path} holds {found}; it must hold {wanted}")
    return value


def parse_json(data: bytes, name: str, allow_nan: bool = False) -> Any:
    """The value that the bytes of a JSON file hold; `name` stands for the file in errors.

    Raises InputError if they are no text or no JSON.
    """
    if not data.strip():
        raise InputError(f"{name} is empty; it must hold JSON")
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8: byte {error.start} cannot be read") from error
    try:
        return json.loads(text, parse_constant=None if allow_nan else _refuse)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply") from error
    except _ConstantError as error:
        raise InputError(
            f"{name} is not JSON: {_place_of_constant(text)}: {error} is no number of JSON"
        ) from error
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise InputError(f"{name} cannot be read: {error}") from error


class _ConstantError(ValueError):
    """NaN, Infinity or -Infinity."""


def _refuse(constant: str) -> None:
    raise _ConstantError(constant)


def _place_of_constant(text: str) -> str:
    """Line and column of the first NaN or Infinity that is not inside a string."""
    for found in _STRING_OR_CONSTANT.finditer(text):
        if not found.group().startswith('"'):
            before = text[: found.start()]
            return f"line {before.count(chr(10)) + 1}, column {found.start() - before.rfind(chr(10))}"
    return "somewhere"
