"""Find the files of annotations, and the images that annotations name by paths of another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

from xvlm.data.files import storage
from xvlm.records import BadRecord


def json_files(folder: str) -> list[str]:
    """Return the JSON files in a folder and the folders below, sorted; none if it is no folder."""
    return list(files_below(folder, (".json",)))


def files_below(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files with one of these suffixes in a folder and the folders below, sorted."""
    if storage.is_remote(folder):
        if storage.is_folder(folder):
            yield from (path for path, _ in storage.find_remote(folder) if path.lower().endswith(suffixes))
        return
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (f"{parent}/{name}" for name in sorted(names) if name.lower().endswith(suffixes))


def find_image(key: str, name: str, *folders: str | None) -> str:
    """Return the path of an image that annotations name.

    It is looked for by its path below each folder, then by ever shorter ends of the path.

    Args:
        folders: folders to look in; `None` is left out.
    Raises:
        BadRecord: it is in none of them.
    """
    if storage.is_remote(name):
        return storage.check_data_path(name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for folder in filter(None, folders):
        for start in range(len(parts)):
            *inner, last = parts[start:]
            parent = "/".join([folder.rstrip("/"), *inner])
            if last in _names(parent):
                return f"{parent}/{last}"
    places = " and ".join(filter(None, folders))
    raise BadRecord("image file missing", key, f"{name} is not in {places}; --images names its folder")


@lru_cache(maxsize=4096)
def _names(folder: str) -> frozenset[str]:
    return frozenset(storage.list_names(folder))
