"""Check before a run begins that the image files of a source exist."""

from __future__ import annotations

import os
from collections.abc import Iterator

from xvlm.common.errors import MissingFileError
from xvlm.data.files import storage
from xvlm.data.images.decode import open_image
from xvlm.data.sources.source import Source
from xvlm.records import BadRecord, Record

PROBES, REMOTE_PROBES = 32, 4
_MISSING = ("image file missing", "image file unreadable")
_NEARLY_ALL = 0.9


def check_image_paths(source: Source) -> None:
    """Open the image files of some records, evenly spaced.

    Records that cannot be read and files that are not images are left to the loader, which counts them.

    Raises:
        MissingFileError: nearly all files cannot be opened; the message names one of them, and `image_root`.
    """
    existing = 0
    missing: list[str] = []
    for record in _evenly_spaced(source, REMOTE_PROBES if storage.is_remote(source.name) else PROBES):
        for image in (record.image, record.extra.get("right")):
            if not isinstance(image, str):
                continue
            if storage.is_remote(image) and existing + len(missing) >= REMOTE_PROBES:
                continue
            try:
                open_image(image, key=record.key)
                existing += 1
            except BadRecord as error:
                if error.reason in _MISSING:
                    missing.append(image)
                else:
                    existing += 1
    total = existing + len(missing)
    if missing and len(missing) >= _NEARLY_ALL * total:
        raise MissingFileError(
            f"{source.name}: {len(missing)} of {total} images that were checked cannot be opened, for "
            f"example {missing[0]}; image paths are relative to image_root, by default the folder of the file"
            + _nearest_folder(missing[0])
        )


def _evenly_spaced(source: Source, count: int) -> Iterator[Record]:
    """Yield up to `count` evenly spaced records, without those that cannot be read."""
    count = min(count, len(source))
    for number in range(count):
        try:
            yield source[number * len(source) // count]
        except BadRecord:
            continue


def _nearest_folder(path: str) -> str:
    """Return a note on the part of a path that exists."""
    if storage.is_remote(path):
        return ""
    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return f" (there is a folder {folder or '.'}, but no {os.path.relpath(path, folder or '.')} in it)"
