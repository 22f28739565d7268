"""The files that a preparation names: code of the user's, and files and models of filters."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def named_files(dataset: str, filters: Sequence[str]) -> str:
    """Return a hash of the content of these files, so that shards are made again if one changes.

    Args:
        dataset: name of the data set, or path of the user's file.
        filters: specifications, see `filtering.py`.
    """
    digest = hashlib.sha256()
    for path in _paths(dataset, filters):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            digest.update(file.name.encode(errors="surrogateescape"))
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _paths(dataset: str, filters: Sequence[str]) -> Iterator[Path]:
    """Yield those of the names and of the values of options that are paths of this machine."""
    values = [dataset]
    for one in filters:
        name, _, options = one.partition(":")
        values += [name, *(part.partition("=")[2] for part in options.split(","))]
    for value in values:
        if (os.sep in value or "." in value) and os.path.exists(value):
            yield Path(value)
