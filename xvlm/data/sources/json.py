"""Records from JSON files in any Unicode encoding; their content tells lists, lines and COCO's form apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files import storage
from xvlm.data.files.json_parser import (
    ParsedJson,
    decode_unicode,
    detect_encoding,
    parse_value,
    parse_values,
)
from xvlm.data.sources.coco import coco_fields, is_coco
from xvlm.data.sources.record_fields import DEFAULT_FIELD_NAMES, FieldNames, record_from_fields
from xvlm.data.sources.source import IndexedSource
from xvlm.records import BadRecord, Record

MAX_LINE_BYTES = 1 << 28
MAX_LIST_BYTES = 1 << 30
"""Size limit of a JSON list, which is parsed in one piece."""
_HEAD_BYTES = 4096
_PROBED_LINES = 20
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonSource(IndexedSource):
    """JSON lists, JSON-lines files and COCO's form, with fields in the published forms (`record_fields.py`).

    The positions of lines are found on opening, and a line is parsed when its record is read; everything else
    is parsed on opening.

    Args:
        paths: a file, glob or folder, local or remote, or a list of them.
        image_root: folder or URL that image paths are relative to; by default the folder of each file.
        field_names: names of the fields, if the files do not use the usual ones.
    Raises:
        MissingFileError: a path names no file.
        InputError: a file is not JSON of a known form, or there is no record.
    """

    def __init__(
        self,
        paths: storage.Paths,
        image_root: str | None = None,
        field_names: FieldNames = DEFAULT_FIELD_NAMES,
    ) -> None:
        self._root = image_root
        self._field_names = field_names
        self._files = [_open_file(path) for path in storage.expand(paths)]
        super().__init__(storage.display_name(paths), [len(file) for file in self._files])
        if len(self) == 0:
            raise InputError(f"{self.name} holds no record: it is empty")

    def __getitem__(self, index: int, /) -> Record:
        shard, position = self.locate(index)
        file = self._files[shard]
        key, fields = file.read(position)
        if isinstance(fields, BadRecord):
            raise BadRecord(fields.reason, key, fields.detail)
        root = os.path.dirname(file.path) if self._root is None else self._root
        return record_from_fields(fields, key=key, image_root=root, field_names=self._field_names)


@dataclass(frozen=True)
class _ParsedFile:
    """A parsed file: the key and fields of each record."""

    path: str
    items: list[tuple[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> tuple[str, Any]:
        return self.items[index]


@dataclass(frozen=True)
class _LinesFile:
    """A UTF-8 file of lines: start, size and number (from 1) of each line that is not blank."""

    path: str
    starts: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, index: int) -> tuple[str, Any]:
        key, size = f"{self.path}:{self.numbers[index]}", int(self.sizes[index])
        if size > MAX_LINE_BYTES:
            detail = f"{size} bytes, at most {MAX_LINE_BYTES:,} are allowed"
            return key, BadRecord("line is too long", key, detail)
        return key, parse_value(storage.read_range(self.path, int(self.starts[index]), size), "line", key)


_File = _ParsedFile | _LinesFile
"""The records of one file; `read(index)` returns a key, and the fields or a `BadRecord`."""


def _open_file(path: str) -> _File:
    with storage.open_binary(path) as file:
        head = file.read(_HEAD_BYTES)
        encoding = detect_encoding(head)
        body = head.removeprefix(_UTF8_MARK).lstrip() if encoding.startswith("utf-8") else b""
        file.seek(0)
        if encoding.startswith("utf-8") and not body.startswith(b"["):
            return _open_lines(path, file)
        data = storage.read_at_most(file, MAX_LIST_BYTES)
        if len(data) > MAX_LIST_BYTES:
            raise InputError(
                f"{path} has more than the {MAX_LIST_BYTES:,} bytes allowed for a JSON list; a file of JSON "
                "lines (UTF-8, one record per line) may have any size"
            )
        try:
            text = decode_unicode(data)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is neither UTF-8 nor another Unicode text: {error}") from error
    return _open_text(path, text)


def _open_text(path: str, text: str) -> _File:
    """Open a list, or a decoded file that is not UTF-8."""
    start = text.lstrip()[:1]
    if start == "[":
        try:
            parsed = parse_values(text, "file", several=False)
        except BadRecord as error:
            raise InputError(f"{path} begins as a JSON list but does not parse: {error.detail}") from error
        return _from_items(path, parsed.check_items(parsed.values[0], path))
    if start not in ("{", ""):
        raise _unknown_form(path, text[:20])
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    objects = _open_objects(path, text, lines[0][1] if lines else "", len(lines))
    return objects or _ParsedFile(path, [_parse_line(f"{path}:{number}", line) for number, line in lines])


def _parse_line(key: str, line: str) -> tuple[str, Any]:
    try:
        return key, parse_value(line, "line", key)
    except BadRecord as error:
        return key, error


def _from_items(path: str, items: list[Any]) -> _ParsedFile:
    return _ParsedFile(path, [(f"{path}[{number}]", item) for number, item in enumerate(items)])


def _open_lines(path: str, file: IO[bytes]) -> _File:
    """Open a file with one record per line, or with objects that span lines, or with one object of COCO."""
    starts, sizes, numbers = [], [], []
    first_lines: list[bytes] = []
    for number, (start, size, line) in enumerate(_lines(file), start=1):
        if size <= len(line) and line.removeprefix(_UTF8_MARK if start == 0 else b"").isspace():
            continue
        starts.append(start)
        sizes.append(size)
        numbers.append(number)
        if len(first_lines) < _PROBED_LINES:
            first_lines.append(line.removeprefix(_UTF8_MARK).lstrip())
    if first_lines:
        if not any(line.startswith(b"{") for line in first_lines):
            raise _unknown_form(path, first_lines[0][:20])
        if objects := _open_objects(path, None, first_lines[0], len(starts)):
            return objects
    return _LinesFile(path, *(np.array(column, np.int64) for column in (starts, sizes, numbers)))


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (start, size, first bytes) of each line; a very long line is not held in memory."""
    start = 0
    while line := file.readline(MAX_LINE_BYTES):
        size, rest = len(line), line
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            size += len(rest)
        yield start, size, line
        start += size


def _open_objects(path: str, text: str | None, first_line: str | bytes, lines: int) -> _File | None:
    """Open a file of objects that span several lines, or of one object in COCO's form.

    Returns `None` for a file with one record per line.  If `text` is `None`, it is read when it is needed.
    """
    try:
        parsed = parse_values(first_line, "line")
        if lines > 1 or not is_coco(parsed.values[0]):
            return None
    except BadRecord:
        if lines == 1:
            return None
        try:
            parsed = parse_values(storage.read_all(path) if text is None else text, "file")
        except BadRecord:
            return None
    return _from_objects(path, parsed)


def _from_objects(path: str, parsed: ParsedJson) -> _ParsedFile:
    if len(parsed.values) == 1 and is_coco(value := parsed.values[0]):
        try:
            return _ParsedFile(path, coco_fields(parsed.check(value, "file", path), path))
        except BadRecord as error:
            raise InputError(str(error)) from error
    return _from_items(path, parsed.check_items(parsed.values, path))


def _unknown_form(path: str, head: str | bytes) -> InputError:
    expected = "a JSON list, one JSON object per line, or COCO's object with images and annotations"
    return InputError(f"{path} begins with {short_repr(head)}; expected {expected}, as Unicode text")
