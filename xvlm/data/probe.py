"""A look at a few records of a source before a run begins: are the images where the file says?"""

from __future__ import annotations

import os
from collections.abc import Iterator

from xvlm.data import files
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.errors import MissingFileError
from xvlm.records import BadRecord, Record

PROBES, REMOTE_PROBES = 32, 4
_MISSING = ("image file missing", "image file unreadable")
_NEARLY_ALL = 0.9


def check_images(source: Source, probes: int = PROBES) -> None:
    """Try to open the image files that a few records, evenly spread, name.

    Records that cannot be read, and files that are no images, are left to the loader, which counts them.

    Raises:
        MissingFileError: nearly none of the files can be opened; the sentence names one, and `image_root`.
    """
    found = 0
    missing: list[str] = []
    for record in _spread(source, REMOTE_PROBES if files.is_remote(source.name) else probes):
        for image in (record.image, record.extra.get("right")):
            if not isinstance(image, str) or (
                files.is_remote(image) and found + len(missing) >= REMOTE_PROBES
            ):
                continue
            try:
                open_image(image, key=record.key)
                found += 1
            except BadRecord as error:
                if error.reason in _MISSING:
                    missing.append(image)
                else:
                    found += 1
    total = found + len(missing)
    if missing and len(missing) >= _NEARLY_ALL * total:
        raise MissingFileError(
            f"{source.name}: {len(missing)} of {total} images that were looked for cannot be opened, for "
            f"example {missing[0]}; image paths start beside the file, or at image_root where it is given"
            + _nearest_folder(missing[0])
        )


def _spread(source: Source, count: int) -> Iterator[Record]:
    """Up to `count` records, evenly spread; those that cannot be read are passed over."""
    count = min(count, len(source))
    for number in range(count):
        try:
            yield source[number * len(source) // count]
        except BadRecord:
            continue


def _nearest_folder(path: str) -> str:
    """How much of a path exists."""
    if files.is_remote(path):
        return ""
    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return f" (there is a folder {folder or '.'}, but no {os.path.relpath(path, folder or '.')} in it)"
