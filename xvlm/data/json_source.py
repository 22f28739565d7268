"""Records of JSON files: lists, lines, COCO's one object, in any Unicode encoding; told apart by content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np

from xvlm.data import files
from xvlm.data.coco import coco_fields, is_coco
from xvlm.data.json_text import Parsed, decoded, encoding_of, parse_json, parse_values
from xvlm.data.published import USUAL_KEYS, Keys, record_from_fields
from xvlm.data.short_repr import short_repr
from xvlm.errors import InputError
from xvlm.records import BadRecord, Record

MAX_LINE_BYTES = 1 << 28
MAX_LIST_BYTES = 1 << 30
"""Of a list, which is parsed as a whole."""
_HEAD_BYTES = 4096
_LINES_LOOKED_AT = 20
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonSource:
    """JSON lists, JSON-lines files and COCO's form in the published shapes (see `published.py`, `coco.py`).

    Lines are found once, on opening, and parsed when asked for; everything else is parsed on opening.

    Args:
        paths: a file, glob or folder, local or remote, or a list of them.
        image_root: where image paths start; by default each file's own folder.
    Raises:
        MissingFileError: a path names no file.
        InputError: a file is no JSON of a known form, or there is no record in any.
    """

    def __init__(self, paths: files.Paths, image_root: str | None = None, keys: Keys = USUAL_KEYS) -> None:
        found = files.expand(paths)
        self.name = files.name_of(paths)
        self._root = image_root
        self._keys = keys
        self._parts = [_open_part(path) for path in found]
        self.shards: Sequence[int] = [len(part) for part in self._parts]
        self._ends = np.cumsum(self.shards)
        if len(self) == 0:
            raise InputError(f"{self.name} holds no record: it is empty")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        shard, place = files.locate(self._ends, index)
        part = self._parts[shard]
        key, fields = part.read(place)
        if isinstance(fields, BadRecord):
            raise BadRecord(fields.reason, key, fields.detail)
        root = os.path.dirname(part.path) if self._root is None else self._root
        return record_from_fields(fields, key=key, image_root=root, keys=self._keys)


class _Part(Protocol):
    """The records of one file."""

    @property
    def path(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, place: int) -> tuple[str, Any]:
        """The key of a record, and its fields or why there are none."""


@dataclass(frozen=True)
class _ParsedFile:
    """Records that are in memory: key and fields of each."""

    path: str
    items: list[tuple[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, place: int) -> tuple[str, Any]:
        return self.items[place]


@dataclass(frozen=True)
class _LinesFile:
    """Lines that are not blank: where each starts, how long it is, its number in the file from 1."""

    path: str
    starts: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, place: int) -> tuple[str, Any]:
        key, size = f"{self.path}:{self.numbers[place]}", int(self.sizes[place])
        if size > MAX_LINE_BYTES:
            detail = f"{size} bytes, at most {MAX_LINE_BYTES:,} are allowed"
            return key, BadRecord("line is too long", key, detail)
        return key, parse_json(files.read_range(self.path, int(self.starts[place]), size), "line", key)


@dataclass(frozen=True)
class _DecodedLines:
    """Lines of a file that is not UTF-8, in memory, with their numbers."""

    path: str
    lines: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, place: int) -> tuple[str, Any]:
        number, line = self.lines[place]
        key = f"{self.path}:{number}"
        return key, parse_json(line, "line", key)


def _open_part(path: str) -> _Part:
    with files.open_binary(path) as file:
        head = file.read(_HEAD_BYTES)
        encoding = encoding_of(head)
        body = head.removeprefix(_UTF8_MARK).lstrip() if encoding.startswith("utf-8") else b""
        file.seek(0)
        if encoding.startswith("utf-8") and not body.startswith(b"["):
            return _open_lines(path, file)
        data = files.read_at_most(file, MAX_LIST_BYTES)
        if len(data) > MAX_LIST_BYTES:
            raise InputError(
                f"{path} has more than the {MAX_LIST_BYTES:,} bytes that are read of a JSON list; a file of "
                "JSON lines (UTF-8, one record a line) may be of any size"
            )
        try:
            text = decoded(data)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is neither UTF-8 nor another Unicode text: {error}") from error
    return _open_text(path, text)


def _open_text(path: str, text: str) -> _Part:
    """A list, or a file that is in memory since it is not UTF-8."""
    start = text.lstrip()[:1]
    if start == "[":
        try:
            parsed = parse_values(text, "file", several=False)
        except BadRecord as error:
            raise InputError(f"{path} begins as a JSON list but does not parse: {error.detail}") from error
        return _of_items(path, parsed.checked_items(parsed.values[0], path))
    if start not in ("{", ""):
        raise _no_json(path, text[:20])
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    whole = _whole_objects(path, text, lines[0][1] if lines else "", len(lines))
    return whole or _DecodedLines(path, lines)


def _of_items(path: str, items: list[Any]) -> _ParsedFile:
    return _ParsedFile(path, [(f"{path}[{number}]", item) for number, item in enumerate(items)])


def _open_lines(path: str, file: IO[bytes]) -> _Part:
    """One record a line, unless the objects stand over several lines, or the only one has COCO's form."""
    starts, sizes, numbers = [], [], []
    first: list[bytes] = []
    for number, (start, size, line) in enumerate(_lines(file), start=1):
        if size <= len(line) and line.removeprefix(_UTF8_MARK if start == 0 else b"").isspace():
            continue
        starts.append(start)
        sizes.append(size)
        numbers.append(number)
        if len(first) < _LINES_LOOKED_AT:
            first.append(line.removeprefix(_UTF8_MARK).lstrip())
    if first and not any(line.startswith(b"{") for line in first):
        raise _no_json(path, first[0][:20])
    if first:
        whole = _whole_objects(path, None, first[0], len(starts))
        if whole:
            return whole
    return _LinesFile(path, *(np.array(column, np.int64) for column in (starts, sizes, numbers)))


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """(where it starts, its size, what it begins with) of each line; of a very long one not all is held."""
    start = 0
    while line := file.readline(MAX_LINE_BYTES):
        size, rest = len(line), line
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            size += len(rest)
        yield start, size, line
        start += size


def _whole_objects(path: str, text: str | None, first_line: str | bytes, lines: int) -> _Part | None:
    """The file as objects that stand over several lines, or as the one object of COCO's form; else nothing.

    Args:
        text: of the file; `None`: it is read if need be.
    """
    try:
        parsed = parse_values(first_line, "line")
        if lines > 1 or not is_coco(parsed.values[0]):
            return None
    except BadRecord:
        if lines == 1:
            return None
        try:
            parsed = parse_values(files.read_all(path) if text is None else text, "file")
        except BadRecord:
            return None
    return _of_objects(path, parsed)


def _of_objects(path: str, parsed: Parsed) -> _ParsedFile:
    if len(parsed.values) == 1 and is_coco(found := parsed.values[0]):
        try:
            return _ParsedFile(path, coco_fields(parsed.checked(found, "file", path), path))
        except BadRecord as error:
            raise InputError(str(error)) from error
    return _of_items(path, parsed.checked_items(parsed.values, path))


def _no_json(path: str, head: str | bytes) -> InputError:
    expected = "a JSON list, one JSON object a line, or COCO's object with images and annotations"
    return InputError(f"{path} begins with {short_repr(head)}; expected {expected}, as Unicode text")
