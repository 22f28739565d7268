"""CVAT's own form, "CVAT for images": one XML with all photos.

The texts of a shape are its label, and the values of attributes called caption, text or description; other
attributes become words before the label, if they are no numbers, and a ticked box its name.  Rotated boxes
and other shapes become the box around them; a tag is a caption.
"""

from __future__ import annotations

import math
from typing import Any

from xvlm.prepare.places import find_image
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.prepare.xml_files import read_xml
from xvlm.records import BadRecord

_TEXTS = ("caption", "text", "description")
_CORNERS = ("xtl", "ytl", "xbr", "ybr")


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has the form."""
    try:
        return path.lower().endswith(".xml") and read_xml(path).tag == "annotations"
    except BadRecord:
        return False


def read(release: Release) -> Samples:
    """Yield each photo with its shapes."""
    folder = release.root.rpartition("/")[0] or "."
    for image in read_xml(release.root).findall("image"):
        key = image.get("name", "")
        size = declared_size(image.get("width"), image.get("height"))
        elems, captions = list[dict[str, Any]](), list[str]()
        for shape in image:
            try:
                if shape.tag == "tag":
                    captions.append(shape.get("label", ""))
                else:
                    elems.append(_elem(shape, key))
            except BadRecord as error:
                yield error
        fields = ({"elems": elems} if elems else {}) | ({"caption": captions} if captions else {})
        try:
            if not fields:
                raise BadRecord("image without annotation", key)
            yield Sample(key, find_image(key, key, release.images, folder, f"{folder}/images"), fields | size)
        except BadRecord as error:
            yield error


def _elem(shape: Any, key: str) -> dict[str, Any]:
    texts, words = [shape.get("label", "")], []
    for one in shape.findall("attribute"):
        name, value = one.get("name", ""), (one.text or "").strip()
        if name.lower() in _TEXTS:
            texts += [value] if value else []
        elif value.lower() == "true":
            words.append(name)
        elif value and value.lower() != "false" and not _is_number(value):
            words.append(value)
    return {"caption": texts, "bb": _box(shape, key)} | ({"attributes": words} if words else {})


def _box(shape: Any, key: str) -> list[float]:
    """Return the box around a shape as x, y, w, h in pixels."""
    if shape.tag not in ("box", "ellipse", "polygon"):
        raise BadRecord("shape without area", key, f"{shape.tag} {shape.get('label')}")
    try:
        x, y = zip(*_points(shape), strict=True)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadRecord("wrong type", key, f"{shape.tag}: {error}") from error
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def _points(shape: Any) -> list[tuple[float, ...]]:
    """Return points of a shape, between which it lies."""
    if shape.tag == "polygon":
        return [tuple(map(float, point.split(","))) for point in shape.get("points").split(";")]
    if shape.tag == "ellipse":
        cx, cy, rx, ry = (float(shape.get(one)) for one in ("cx", "cy", "rx", "ry"))
        return [(cx - rx, cy - ry), (cx + rx, cy + ry)]
    return _rotated([float(shape.get(one)) for one in _CORNERS], float(shape.get("rotation", 0)))


def _rotated(box_xyxy: list[float], degrees: float) -> list[tuple[float, ...]]:
    """Return the corners of a box that is rotated around its centre."""
    x0, y0, x1, y1 = box_xyxy
    cx, cy, cos, sin = (
        (x0 + x1) / 2,
        (y0 + y1) / 2,
        math.cos(math.radians(degrees)),
        math.sin(math.radians(degrees)),
    )
    corners = ((x0, y0), (x1, y0), (x0, y1), (x1, y1))
    return [(cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos) for x, y in corners]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


DATASET = Dataset("CVAT for images", "", "", ("all",), read)
