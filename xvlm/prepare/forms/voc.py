"""Pascal VOC's files: one XML a photo, with objects and their boxes.

In Pascal VOC itself, a release with a folder `ImageSets`, corners count from 1 and belong to the box, so 1 to
10 is 0 to 10 in pixels; annotation tools write pixels from 0.  A rotated box (`robndbox`) becomes the box
around it.  Photos are in `JPEGImages` beside the folder of the files, in `images` there, or beside the files.
The lists in `ImageSets/Main` are splits.
"""

from __future__ import annotations

import math
import os
from typing import Any

from xvlm.data.files import storage
from xvlm.prepare.places import checked_names, files_below, find_image
from xvlm.prepare.release import ALL, ANY_PART, Contents, Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.prepare.shapes import Box, rotated_box
from xvlm.prepare.xml_files import number, read_xml
from xvlm.records import BadRecord

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_ROTATED = ("cx", "cy", "w", "h", "angle")
_SETS = "ImageSets/Main"
_OF_CLASSES = ("_train", "_val", "_trainval", "_test")
"""Ends of the names of lists that say of each photo whether it shows a class."""


def recognises(path: str, value: Any) -> bool:
    """Return whether the first XML file of a folder that can be read, or a file, has the form."""
    for file in xml_files(path):
        try:
            return bool(read_xml(file).tag == "annotation")
        except BadRecord:
            continue
    return False


def xml_files(path: str) -> list[str]:
    """Return the XML files of a folder, or the file itself."""
    return [path] if path.lower().endswith(".xml") else list(files_below(path, (".xml",)))


def contents(release: Release) -> Contents:
    """Return the names of the lists in `ImageSets/Main`."""
    stems = (
        os.path.splitext(name)[0] for name in storage.list_names(_sets(release)) if name.endswith(".txt")
    )
    return Contents([stem for stem in stems if not stem.endswith(_OF_CLASSES)])


def read(release: Release) -> Samples:
    """Yield each photo with its objects."""
    files = list(checked_names(xml_files(release.root)))
    if release.split != ALL:
        lines = (
            storage.read_all(f"{_sets(release)}/{release.split}.txt").decode("utf-8", "replace").splitlines()
        )
        stems = {line.split()[0] for line in lines if line.strip()}
        files = [one for one in files if isinstance(one, BadRecord) or _stem(one) in stems]
        missing = stems.difference(_stem(one) for one in files if isinstance(one, str))
        yield from (BadRecord("annotation file missing", f"{stem}.xml") for stem in sorted(missing))
    for path in files:
        if isinstance(path, BadRecord):
            yield path
            continue
        bad: list[BadRecord] = []
        try:
            sample: Sample | BadRecord = _sample(path, release.images, bad)
        except BadRecord as error:
            sample = error
        yield from bad
        yield sample


def _sets(release: Release) -> str:
    """Return the folder of the lists: in the release, or beside the folder of its XML files."""
    inside = f"{release.root.rstrip('/')}/{_SETS}"
    folder = release.root if storage.is_folder(release.root) else os.path.dirname(release.root)
    return inside if storage.is_folder(inside) else f"{os.path.dirname(folder.rstrip('/')) or '.'}/{_SETS}"


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _sample(path: str, images: str | None, bad: list[BadRecord]) -> Sample:
    """Return a photo with its objects, and add those that cannot be used to a list."""
    root = read_xml(path)
    folder = os.path.dirname(path) or "."
    release = os.path.dirname(folder) or "."
    first = 1.0 if storage.is_folder(f"{release}/ImageSets") else 0.0
    elems: list[dict[str, Any]] = []
    for one in root.findall("object"):
        try:
            elems.append({"caption": one.findtext("name"), "bb": _box(one, first)})
        except BadRecord as error:
            bad.append(BadRecord(error.reason, path, f"{one.findtext('name')}: {error.detail}"))
    if not elems:
        raise BadRecord("image without annotation", path)
    name = root.findtext("filename") or _stem(path)
    places = (f"{release}/JPEGImages", folder, f"{release}/images")
    size = declared_size(root.findtext("size/width"), root.findtext("size/height"))
    return Sample(path, _find(path, name, images, places), {"elems": elems, **size})


def _box(one: Any, first: float) -> Box:
    """Return the box of an object.  Raises BadRecord if it has none.

    Args:
        first: number of the first pixel.
    """
    if (box := one.find("bndbox")) is not None:
        x0, y0, x1, y1 = number(box, *_SIDES)
        return [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]
    if (box := one.find("robndbox")) is not None:
        cx, cy, w, h, angle = number(box, *_ROTATED)
        return rotated_box([cx - w / 2, cy - h / 2, w, h], math.degrees(angle))
    raise BadRecord("annotation without box", "", f"it has {', '.join(part.tag for part in one)}")


def _find(key: str, name: str, images: str | None, places: tuple[str, ...]) -> str:
    """Return the path of a photo, whose name some tools write without its suffix."""
    last: BadRecord | None = None
    for suffix in ("", ".jpg", ".jpeg", ".png", ".JPG"):
        try:
            return find_image(key, name + suffix, images, *places)
        except BadRecord as error:
            last = last or error
    assert last is not None
    raise last


DATASET = Dataset("Pascal VOC", "", "", ANY_PART, read, contents=contents)
