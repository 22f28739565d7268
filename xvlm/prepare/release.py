"""A downloaded release: where its files are, and what a file in `datasets/` says of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.files import storage
from xvlm.data.files.json_parser import parse_value
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in
from xvlm.prepare.sample import Samples
from xvlm.records import BadRecord

Form = Literal["tar", "lines"]
"""Shards hold the images ("tar"), or are JSON lines that name them ("lines")."""
_TEXT_ERRORS = "replace"


@dataclass(frozen=True)
class Release:
    """A folder of files as they were downloaded.

    Attributes:
        root: folder or URL.
        split: part that is read.
        images: folder or URL of the images, if annotations do not say where they are.
    """

    root: str
    split: str
    images: str | None = None

    def find(self, *names: str) -> str:
        """Return the path of the first name that exists; a name may be a glob, which must match one file.

        Raises MissingFileError, which lists the names.
        """
        for name in names:
            if found := self.find_all(name):
                if len(found) > 1:
                    raise InputError(f"{self.root} has several files {name}: {', '.join(found[:3])}")
                return found[0]
        raise MissingFileError(
            f"{self.root} has no {' and no '.join(names)}; see docs/datasets.md for its layout"
        )

    def find_all(self, name: str) -> list[str]:
        """Return the paths that a name or glob stands for; none if there is no such file."""
        try:
            return storage.expand(self.path(name))
        except MissingFileError:
            return []

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder."""
        return storage.list_names(self.path(folder))

    def path(self, name: str) -> str:
        """Return a path below the root."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def json(self, *names: str) -> Any:
        """Parse the first JSON file of these names that exists."""
        return read_json_value(self.find(*names))

    def json_list(self, key: str, *names: str) -> list[Any]:
        """Return a list of the first JSON file of these names that exists.

        Args:
            key: name of the list in an object; empty: the file is a list.
        """
        return list_in(self.json(*names), key, names[0])

    def lines(self, *names: str) -> Iterator[tuple[int, str]]:
        """Yield (number from 1, text) of the lines of a text file; bytes that are not UTF-8 are replaced."""
        with storage.open_binary(self.find(*names)) as file:
            for number, line in enumerate(io.TextIOWrapper(file, "utf-8-sig", _TEXT_ERRORS), 1):
                yield number, line.rstrip("\r\n")

    def json_lines(self, *names: str) -> Iterator[Any]:
        """Yield the values of a file of JSON lines, and a `BadRecord` for each line that is none."""
        for number, line in self.lines(*names):
            if line.strip():
                try:
                    yield parse_value(line.encode(), "line", f"{names[0]}:{number}")
                except BadRecord as error:
                    yield error

    def rows(self, *names: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
        """Yield the rows of a table with a header."""
        with storage.open_binary(self.find(*names)) as file:
            text = io.TextIOWrapper(file, "utf-8-sig", _TEXT_ERRORS, newline="")
            yield from csv.DictReader(text, delimiter=delimiter)


ALL = "all"
"""Name of all parts of people's own annotations together."""


class _AnyPart(tuple[str, ...]):
    """Parts of people's own annotations: every file has others, which its reader names."""

    def __contains__(self, part: object) -> bool:
        return isinstance(part, str)


ANY_PART = _AnyPart((ALL,))


@dataclass(frozen=True)
class Contents:
    """What a file of people's own annotations has several of.

    Attributes:
        splits: names of its parts.
        fields: names of lists of labels that are read together.
    """

    splits: Sequence[str] = ()
    fields: Sequence[str] = ()


@dataclass(frozen=True)
class Dataset:
    """What a file in `datasets/` says of a public data set.

    Attributes:
        title: its name.
        link: where it is downloaded.
        licence: its licence in a few words, no legal advice.
        splits: parts that can be read, the usual one first.
        read: yields its samples, in an order that is always the same.
        form: whether shards hold the images; evaluation sets have several records an image, and name them.
        published: numbers of images, texts and boxes, as published, to compare with.
        tars: returns the shards of a release in WebDataset's form, if it has some.  Each becomes a shard of
            ours, and `read` is called with a release whose root is one of them.
        contents: returns what a file of people's own annotations has several of.
    """

    title: str
    link: str
    licence: str
    splits: Sequence[str]
    read: Callable[[Release], Samples]
    form: Form = "tar"
    published: Mapping[str, str] = field(default_factory=dict)
    tars: Callable[[Release], list[str]] | None = None
    contents: Callable[[Release], Contents] = lambda release: Contents()
