"""CVAT's own forms: "CVAT for images", one XML with all photos, and "CVAT for video".

The texts of a shape are its label, and the values of attributes called caption, text or description.  The
values of other attributes become words before the label if the file says that they are chosen from a list
(`select`, `radio`), or does not say it and they have no digit; a ticked box becomes its name.  Numbers, ids
and CVAT's placeholder `__undefined__` are no words.  Rotated boxes and other shapes become the box around
them; a tag is a caption.

Tracks of a video have shapes in frames, which are found as images that are called as CVAT exports them,
`frame_000012.png`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.prepare.places import ImageFinder
from xvlm.prepare.release import ALL, ANY_PART, Contents, Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.prepare.shapes import Box, box_around, ellipse_box, rotated_box
from xvlm.prepare.xml_files import read_xml
from xvlm.records import BadRecord

_TEXTS = ("caption", "text", "description")
_CHOSEN = (None, "select", "radio")
_UNDEFINED = "__undefined__"
InputTypes = dict[tuple[str, str], str]
"""How the values of an attribute are entered, by label and name."""


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has the form."""
    try:
        return path.lower().endswith(".xml") and read_xml(path).tag == "annotations"
    except BadRecord:
        return False


def contents(release: Release) -> Contents:
    """Return the subsets of a file."""
    found = {image.get("subset") for image in read_xml(release.root).findall("image")}
    return Contents(sorted(filter(None, found)))


def read(release: Release) -> Samples:
    """Yield each photo, or frame, with its shapes."""
    folder = release.root.rpartition("/")[0] or "."
    root = read_xml(release.root)
    types = _input_types(root)
    images = [one for one in root.findall("image") if release.split in (ALL, one.get("subset"))]
    names = [one.get("name", "") for one in images]
    finder = ImageFinder(names, release.images, folder, f"{folder}/images")
    for image, name in zip(images, names, strict=True):
        size = declared_size(image.get("width"), image.get("height"))
        yield from _samples(name, lambda name=name: finder.find(name, name), list(image), size, types)
    if release.split == ALL and root.find("track") is not None:
        yield from _frames(release, root, types, [release.images or folder, f"{folder}/images"])


def _samples(key: str, find: Any, shapes: list[Any], size: dict[str, Any], types: InputTypes) -> Samples:
    """Yield a photo with its shapes, after those that cannot be used.

    Args:
        find: returns the path of the photo.
    """
    elems, captions = list[dict[str, Any]](), list[str]()
    for shape in shapes:
        try:
            if shape.tag == "tag":
                captions.append(shape.get("label", ""))
            else:
                elems.append(_elem(shape, key, types))
        except BadRecord as error:
            yield error
    fields = ({"elems": elems} if elems else {}) | ({"caption": captions} if captions else {})
    try:
        if not fields:
            raise BadRecord("image without annotation", key)
        yield Sample(key, find(), fields | size)
    except BadRecord as error:
        yield error


def _frames(release: Release, root: Any, types: InputTypes, folders: list[str]) -> Samples:
    """Yield each frame of a video with the shapes of its tracks."""
    files = {
        os.path.splitext(name)[0]: f"{one}/{name}" for one in folders for name in storage.list_names(one)
    }
    shapes: dict[int, list[Any]] = {}
    for track in root.findall("track"):
        for shape in track:
            if shape.get("outside") != "1" and shape.get("frame", "").isdecimal():
                shape.set("label", track.get("label", ""))
                shapes.setdefault(int(shape.get("frame")), []).append(shape)
    names = {frame: f"frame_{frame:06}" for frame in sorted(shapes)}
    if names and not any(name in files for name in names.values()):
        raise InputError(
            f"{release.root} has tracks of a video, which need its frames as images; {folders[0]} has no "
            f"{next(iter(names.values()))}.png, and --images names the folder of the frames"
        )
    size = declared_size(
        root.findtext("meta/task/original_size/width"), root.findtext("meta/task/original_size/height")
    )

    def find(name: str) -> str:
        if name not in files:
            raise BadRecord("image file missing", name, f"it is not in {' and '.join(folders)}")
        return files[name]

    for frame, name in names.items():
        yield from _samples(name, lambda name=name: find(name), shapes[frame], size, types)


def _input_types(root: Any) -> InputTypes:
    """Return how the values of attributes are entered, as far as the file says it."""
    return {
        (label.findtext("name", ""), one.findtext("name", "")): one.findtext("input_type", "")
        for label in root.iterfind("meta//label")
        for one in label.iterfind("attributes/attribute")
    }


def _elem(shape: Any, key: str, types: InputTypes) -> dict[str, Any]:
    label = shape.get("label", "")
    texts, words = [label], []
    for one in shape.findall("attribute"):
        name, value = one.get("name", ""), (one.text or "").strip()
        if not value or value == _UNDEFINED:
            continue
        if name.lower() in _TEXTS:
            texts.append(value)
        elif value.lower() in ("true", "false"):
            words += [name] if value.lower() == "true" else []
        elif (kind := types.get((label, name))) in _CHOSEN:
            is_word = not _is_number(value) if kind else not any(map(str.isdigit, value))
            words += [value] if is_word else []
    return {"caption": texts, "bb": _box(shape, key)} | ({"attributes": words} if words else {})


def _box(shape: Any, key: str) -> Box:
    """Return the box around a shape as x, y, w, h in pixels."""
    try:
        if shape.tag == "polygon":
            pairs = (point.split(",") for point in shape.get("points").split(";"))
            return box_around((float(x), float(y)) for x, y in pairs)
        degrees = float(shape.get("rotation") or 0)
        if shape.tag == "ellipse":
            cx, cy, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
            return ellipse_box((cx, cy), (rx, ry), degrees)
        if shape.tag == "mask":
            return list(_numbers(shape, "left", "top", "width", "height"))
        if shape.tag == "box":
            x0, y0, x1, y1 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
            return rotated_box([x0, y0, x1 - x0, y1 - y0], degrees)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadRecord("wrong type", key, f"{shape.tag}: {error}") from error
    raise BadRecord("shape without area", key, f"{shape.tag} {shape.get('label')}")


def _numbers(shape: Any, *names: str) -> Iterator[float]:
    return (float(shape.get(name)) for name in names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


DATASET = Dataset("CVAT", "", "", ANY_PART, read, contents=contents)
