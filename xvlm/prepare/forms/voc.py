"""Pascal VOC's files: one XML a photo, with objects and their boxes.

In Pascal VOC itself, a release with a folder `ImageSets`, corners count from 1 and belong to the box, so 1 to
10 is 0 to 10 in pixels; annotation tools write pixels from 0.  Photos are in `JPEGImages` beside the folder
of the files, in `images` there, or beside the files.
"""

from __future__ import annotations

import os
from typing import Any

from xvlm.data.files import storage
from xvlm.prepare.places import files_below, find_image
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.prepare.xml_files import number, read_xml
from xvlm.records import BadRecord

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def recognises(path: str, value: Any) -> bool:
    """Return whether the first XML file of a folder, or a file, has the form."""
    files = xml_files(path)
    try:
        return bool(files) and read_xml(files[0]).tag == "annotation"
    except BadRecord:
        return False


def xml_files(path: str) -> list[str]:
    """Return the XML files of a folder, or the file itself."""
    return [path] if path.lower().endswith(".xml") else list(files_below(path, (".xml",)))


def read(release: Release) -> Samples:
    """Yield each photo with its objects."""
    for path in xml_files(release.root):
        try:
            yield _sample(path, release.images)
        except BadRecord as error:
            yield error


def _sample(path: str, images: str | None) -> Sample:
    root = read_xml(path)
    objects = root.findall("object")
    if not objects:
        raise BadRecord("image without annotation", path)
    folder = os.path.dirname(path) or "."
    release = os.path.dirname(folder) or "."
    first = 1.0 if storage.is_folder(f"{release}/ImageSets") else 0.0
    elems: list[dict[str, Any]] = []
    for one in objects:
        if (box := one.find("bndbox")) is not None:
            x0, y0, x1, y1 = number(box, *_SIDES)
            size = [x1 - x0 + first, y1 - y0 + first]
            elems.append({"caption": one.findtext("name"), "bb": [x0 - first, y0 - first, *size]})
    name = root.findtext("filename") or os.path.splitext(os.path.basename(path))[0]
    places = (images, f"{release}/JPEGImages", folder, f"{release}/images")
    size = declared_size(root.findtext("size/width"), root.findtext("size/height"))
    return Sample(path, _find(path, name, places), {"elems": elems, **size})


def _find(key: str, name: str, places: tuple[str | None, ...]) -> str:
    """Return the path of a photo, whose name some tools write without its suffix."""
    last: BadRecord | None = None
    for suffix in ("", ".jpg", ".jpeg", ".png", ".JPG"):
        try:
            return find_image(key, name + suffix, *places)
        except BadRecord as error:
            last = last or error
    assert last is not None
    raise last


DATASET = Dataset("Pascal VOC", "", "", ("all",), read)
