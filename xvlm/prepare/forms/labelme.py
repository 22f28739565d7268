"""labelme's files: one JSON a photo, with shapes; the label and the description of a shape are its texts.

Rectangles may have any two opposite corners; of circles, polygons and others the box around them is taken.
Points refer to the upright photo.  The photo is beside the file (`imagePath`), or inside (`imageData`).
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from xvlm.common.errors import InputError
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import read_parts
from xvlm.prepare.places import checked_names, find_image, json_files
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.records import BadRecord

_NO_AREA = ("point", "points", "line", "linestrip")


def recognises(path: str, value: Any) -> bool:
    """Return whether a file, or the first JSON file of a folder that can be read, has labelme's form."""
    for file in json_files(path) if value is None else ():
        try:
            value = read_json_value(file)
            break
        except InputError:  # a damaged file, which is counted when it is read
            continue
    return isinstance(value, Mapping) and isinstance(value.get("shapes"), list) and "imagePath" in value


def read(release: Release) -> Samples:
    """Yield each photo with its shapes."""
    for path in checked_names(json_files(release.root) or [release.root]):
        if isinstance(path, BadRecord):
            yield path
            continue
        try:
            value = read_json_value(path)
        except InputError as error:
            yield BadRecord("file is not JSON", path, str(error))
            continue
        if not isinstance(value, Mapping) or not isinstance(value.get("shapes"), list):
            yield BadRecord("not in labelme's form", path)
            continue
        try:
            image = _image(path, value, release.images)
        except BadRecord as error:
            yield error
            continue
        bad: list[BadRecord] = []
        size = declared_size(value.get("imageWidth"), value.get("imageHeight"))
        elems = list(read_parts(partial(_elem, path), value["shapes"], path, bad))
        yield from bad
        if elems:
            yield Sample(path, image, {"elems": elems, **size})
        else:
            yield BadRecord("image without annotation", path)


def _image(path: str, value: Mapping[str, Any], images: str | None) -> str | bytes:
    name = str(value.get("imagePath", "")).replace("\\", "/")
    folder = path.rpartition("/")[0] or "."
    try:
        return find_image(path, name, images, folder)
    except BadRecord:
        if not value.get("imageData"):
            raise
    try:
        return base64.b64decode(value["imageData"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadRecord("image is not base64", path, str(error)) from error


def _elem(path: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    texts = [shape.get("label"), shape.get("description")]
    captions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    return {"caption": captions, "bb": _box(shape, path)}


def _box(shape: Mapping[str, Any], path: str) -> list[float]:
    kind = shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind in _NO_AREA or len(points) < 2:
        raise BadRecord("shape without area", path, f"{kind} {shape.get('label')}")
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return [x - radius, y - radius, 2 * radius, 2 * radius]
    x0, y0 = (min(axis) for axis in zip(*points, strict=True))
    x1, y1 = (max(axis) for axis in zip(*points, strict=True))
    return [x0, y0, x1 - x0, y1 - y0]


DATASET = Dataset("labelme", "", "", ("all",), read)
