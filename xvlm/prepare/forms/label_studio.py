"""Label Studio's exports: JSON and JSON-MIN.

Boxes are percentages of the stored photo, and may be rotated; then the box around them is taken.  A text of a
region (`textarea` with the same id) is taken beside its labels, and one without a region is a caption.
Annotations that were cancelled, and predictions, are not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from xvlm.data.files import storage
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_entries
from xvlm.prepare.places import find_image
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

_REGIONS = ("rectanglelabels", "polygonlabels", "ellipselabels", "rectangle", "polygon", "ellipse")


def recognises(path: str, value: Any) -> bool:
    """Return whether a file is an export."""
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, Mapping):
        return False
    if isinstance(first.get("data"), Mapping) and isinstance(first.get("annotations"), list):
        return True
    return "annotation_id" in first or "lead_time" in first


def read(release: Release) -> Samples:
    """Yield each task with its regions and captions."""
    tasks = list_in(read_json_value(release.root), "", release.root)
    yield from read_entries(partial(_sample, release), tasks, release.root)


def _sample(release: Release, task: Mapping[str, Any]) -> Sample:
    key = f"task {task.get('id', '')}"
    name = _image_name(task.get("data", task), key)
    elems, captions = _min_form(task) if "data" not in task else _regions(task)
    if not (elems or captions):
        raise BadRecord("image without annotation", key)
    folder = release.root.rpartition("/")[0] or "."
    image = _find(key, name, release.images, f"{folder}/images", folder)
    fields = ({"elems": elems} if elems else {}) | ({"caption": captions} if captions else {})
    return Sample(key, image, fields, has_fractions=True)


def _image_name(data: Mapping[str, Any], key: str) -> str:
    """Return the first value that looks like an image's path or address."""
    values = [data.get("image"), data.get("img"), *data.values()]
    for value in values:
        if isinstance(value, str) and ("/" in value or "." in value):
            query = parse_qs(urlsplit(value).query)
            return unquote(query["d"][0] if "d" in query else value)
    raise BadRecord("unknown fields", key, f"no image among {', '.join(map(str, data))[:100]}")


def _find(key: str, name: str, *folders: str | None) -> str:
    """Return the path of an image; the service puts eight letters before the name of what is uploaded."""
    if storage.is_remote(name) and not name.startswith(("http://", "https://")):
        return storage.check_data_path(name)
    path = urlsplit(name).path if storage.is_remote(name) else name
    folder, _, last = path.rpartition("/")
    try:
        return find_image(key, path, *folders)
    except BadRecord:
        head, dash, rest = last.partition("-")
        if dash and len(head) == 8:
            return find_image(key, f"{folder}/{rest}", *folders)
        raise


def _regions(task: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    boxes: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    captions: list[str] = []
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        for one in annotation.get("result", []):
            value, region = one.get("value", {}), str(one.get("id"))
            if one.get("type") in _REGIONS:
                boxes[region] = _box(value, one.get("original_width", 1), one.get("original_height", 1))
                texts.setdefault(region, []).extend(_labels(value))
            elif one.get("type") == "textarea":
                found = value.get("text", [])
                found = [found] if isinstance(found, str) else found
                is_of_region = "x" in value or "points" in value or region in boxes
                (texts.setdefault(region, []) if is_of_region else captions).extend(found)
            elif one.get("type") == "labels":
                texts.setdefault(region, []).extend(_labels(value))
    elems = [{"caption": texts.get(region, []), "bb": box} for region, box in boxes.items()]
    return elems, captions


def _min_form(task: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    elems, captions = [], list[str]()
    for name, values in task.items():
        if isinstance(values, list):
            for value in values:
                if isinstance(value, Mapping) and ("x" in value or "points" in value):
                    box = _box(value, value.get("original_width", 1), value.get("original_height", 1))
                    elems.append({"caption": _labels(value), "bb": box})
                elif isinstance(value, str) and name not in ("image", "img"):
                    captions.append(value)
        elif isinstance(values, str) and name in ("caption", "text", "description"):
            captions.append(values)
    return elems, captions


def _labels(value: Mapping[str, Any]) -> list[str]:
    return [text for name in value if name.endswith("labels") for text in value[name]]


def _box(value: Mapping[str, Any], width: float, height: float) -> list[float]:
    """Return the box around a region as parts of the image."""
    corners = list(_corners(value, width, height))
    x0, x1 = min(x for x, _ in corners), max(x for x, _ in corners)
    y0, y1 = min(y for _, y in corners), max(y for _, y in corners)
    return [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]


def _corners(value: Mapping[str, Any], width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield the corners of a region in pixels; a rectangle is rotated around its first one, clockwise."""
    if "points" in value:
        yield from ((x * width / 100, y * height / 100) for x, y in value["points"])
        return
    if "radiusX" in value:
        x, y = (value[one] for one in "xy")
        for sign in (-1, 1):
            yield (x + sign * value["radiusX"]) * width / 100, (y + sign * value["radiusY"]) * height / 100
        return
    x, y = value["x"] * width / 100, value["y"] * height / 100
    w, h = value["width"] * width / 100, value["height"] * height / 100
    angle = math.radians(value.get("rotation") or 0)
    for dx, dy in ((0, 0), (w, 0), (0, h), (w, h)):
        yield x + dx * math.cos(angle) - dy * math.sin(angle), y + dx * math.sin(angle) + dy * math.cos(angle)


DATASET = Dataset("Label Studio", "", "", ("all",), read)
