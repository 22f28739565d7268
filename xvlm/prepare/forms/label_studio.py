"""Label Studio's exports: JSON and JSON-MIN.

Boxes are percentages of the stored photo, and may be rotated; then the box around them is taken.  A text of a
region (`textarea` with the same id) is taken beside its labels, and one without a region is a caption.  The
regions of all annotators are read, each with their own texts.  Annotations that were cancelled, and
predictions, are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from xvlm.data.files import storage
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_parts, read_with_parts
from xvlm.prepare.places import ImageFinder
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.prepare.shapes import Box, box_around, ellipse_box, rotated_box
from xvlm.records import BadRecord

_REGIONS = ("rectanglelabels", "polygonlabels", "ellipselabels", "rectangle", "polygon", "ellipse")
_NO_AREA = (
    "brushlabels",
    "brush",
    "keypointlabels",
    "keypoint",
    "bitmask",
    "bitmasklabels",
    "vector",
    "vectorlabels",
)
_UPLOAD_LETTERS = 8
"""Letters that the service puts before the name of what is uploaded, and a dash."""


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
    folder = release.root.rpartition("/")[0] or "."
    names: list[str] = []
    for task in tasks:
        try:
            names.append(_path(_image_name(task.get("data", task), "")))
        except (AttributeError, BadRecord, ValueError):
            continue  # which is counted where the task is read
    finder = ImageFinder(names, release.images, f"{folder}/images", folder, shorten=_before_upload)
    yield from read_with_parts(partial(_sample, finder), tasks, release.root)


def _sample(finder: ImageFinder, task: Mapping[str, Any], bad: list[BadRecord]) -> Sample:
    key = f"task {task.get('id', '')}"
    name = _image_name(task.get("data", task), key)
    found = _Found(key)
    if "data" in task:
        for number, annotation in enumerate(task["annotations"]):
            if not annotation.get("was_cancelled"):
                results = enumerate(annotation.get("result") or ())
                list(read_parts(partial(found.add, number), results, f"{key}, annotation {number}", bad))
    else:
        list(read_parts(found.add_min, task.items(), key, bad))
    elems, captions = found.finish(bad)
    if not (elems or captions):
        raise BadRecord("image without annotation", key)
    is_stored = storage.is_remote(name) and not name.startswith(("http://", "https://"))
    image = storage.check_data_path(name) if is_stored else finder.find(key, _path(name))
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


def _path(name: str) -> str:
    """Return the path of an address."""
    return urlsplit(name).path if storage.is_remote(name) else name


def _before_upload(path: str) -> str | None:
    """Return the path of an image before it was uploaded."""
    folder, _, last = path.rpartition("/")
    head, dash, rest = last.partition("-")
    return f"{folder}/{rest}" if dash and len(head) == _UPLOAD_LETTERS else None


Region = tuple[int, Any]
"""Number of the annotation, and id of the region in it, or its position if it has none."""


@dataclass
class _Found:
    """Boxes and texts by region, and captions.

    Attributes:
        unread: regions that have no box, which was counted.
        shaped: regions of texts that have a place in the image.
    """

    key: str
    boxes: dict[Region, Box] = field(default_factory=dict)
    texts: dict[Region, list[Any]] = field(default_factory=dict)
    captions: list[Any] = field(default_factory=list)
    unread: set[Region] = field(default_factory=set)
    shaped: set[Region] = field(default_factory=set)

    def add(self, annotation: int, result: tuple[int, Mapping[str, Any]]) -> None:
        """Add a result of an annotator.  Raises BadRecord if it is not read."""
        position, one = result
        value, kind = one.get("value") or {}, one.get("type")
        given = one.get("id")
        region: Region = (annotation, position if given is None else str(given))
        if kind in _REGIONS:
            self.unread.add(region)
            box = _box(value, one.get("original_width"), one.get("original_height"))
            self.unread.remove(region)
            self.boxes[region] = box
            self.texts.setdefault(region, []).extend(_labels(value))
        elif kind in _NO_AREA:
            self.unread.add(region)
            raise BadRecord("shape without area", self.key, f"{kind} {', '.join(map(str, _labels(value)))}")
        elif kind in ("textarea", "labels"):
            text = value.get("text", [])
            texts = _labels(value) if kind == "labels" else [text] if isinstance(text, str) else text
            self.texts.setdefault(region, []).extend(texts)
            if kind == "labels" or "x" in value or "points" in value:
                self.shaped.add(region)
        else:
            raise BadRecord("annotation is neither region nor text", self.key, str(kind))

    def add_min(self, item: tuple[str, Any]) -> None:
        """Add a field of a task of JSON-MIN."""
        name, values = item
        if isinstance(values, str) and name in ("caption", "text", "description"):
            self.captions.append(values)
        if not isinstance(values, list) or name in ("image", "img"):
            return
        lost: list[str] = []
        for number, value in enumerate(values):
            if isinstance(value, str):
                self.captions.append(value)
            elif isinstance(value, Mapping) and ("points" in value or {"x", "y"} < value.keys()):
                region = (len(self.boxes), f"{name} {number}")
                try:
                    box = _box(value, value.get("original_width"), value.get("original_height"))
                except (KeyError, TypeError, ValueError) as error:
                    lost.append(f"{name}[{number}]: {error}")
                    continue
                self.boxes[region], self.texts[region] = box, _labels(value)
            else:
                lost.append(f"{name}[{number}]")
        if lost:
            raise BadRecord("shape without area", self.key, ", ".join(lost))

    def finish(self, bad: list[BadRecord]) -> tuple[list[dict[str, Any]], list[Any]]:
        """Return regions and captions, and add texts of regions that are not there to a list."""
        for region, texts in self.texts.items():
            if region in self.boxes or region in self.unread:
                continue
            if region in self.shaped:
                bad.append(BadRecord("text of a region without box", self.key, ", ".join(map(str, texts))))
            else:
                self.captions += texts
        return [{"caption": self.texts[one], "bb": box} for one, box in self.boxes.items()], self.captions


def _labels(value: Mapping[str, Any]) -> list[str]:
    return [text for name in value if name.endswith("labels") for text in value[name]]


def _box(value: Mapping[str, Any], width: float | None, height: float | None) -> Box:
    """Return the box around a region as parts of the image; it is rotated clockwise, by pixels."""
    degrees = value.get("rotation") or 0
    if degrees and not (width and height):
        raise ValueError("it is rotated, and has no original_width and original_height")
    w, h = width or 1, height or 1
    if "points" in value:
        box = box_around((x * w / 100, y * h / 100) for x, y in value["points"])
    else:
        x, y = value["x"] * w / 100, value["y"] * h / 100
        if "radiusX" in value:
            box = ellipse_box((x, y), (value["radiusX"] * w / 100, value["radiusY"] * h / 100), degrees)
        else:
            plain = [x, y, value["width"] * w / 100, value["height"] * h / 100]
            box = rotated_box(plain, degrees, (x, y))
    return [box[0] / w, box[1] / h, box[2] / w, box[3] / h]


DATASET = Dataset("Label Studio", "", "", ("all",), read)
