"""FiftyOne's exports: FiftyOneDataset (`samples.json`) and FiftyOneImageDetectionDataset (`labels.json`).

Boxes are parts of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.data.files import storage
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.places import find_image
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

_FILES = ("samples.json", "labels.json")


def recognises(path: str, value: Any) -> bool:
    """Return whether a folder or a file is an export."""
    if value is None:
        inside = [one for one in _FILES if one in storage.list_names(path)]
        value = read_json_value(f"{path}/{inside[0]}") if inside else None
    return isinstance(value, Mapping) and (
        isinstance(value.get("samples"), list) or {"classes", "labels"} <= value.keys()
    )


def read(release: Release) -> Samples:
    """Yield each sample with its detections."""
    folder = release.root if storage.is_folder(release.root) else release.root.rpartition("/")[0] or "."
    path = release.root
    if path == folder:
        path = f"{folder}/{next(one for one in _FILES if one in storage.list_names(folder))}"
    value = read_json_value(path)
    pairs = _samples(value) if isinstance(value.get("samples"), list) else _labels(value, folder)
    for name, detections in pairs:
        try:
            elems = [{"caption": label, "bb": box} for label, box in detections]
            if not elems:
                raise BadRecord("image without annotation", name)
            image = find_image(name, name, release.images, folder, f"{folder}/data")
        except BadRecord as error:
            yield error
        except (TypeError, ValueError, KeyError) as error:
            yield BadRecord("wrong type", name, f"{type(error).__name__}: {error}")
        else:
            yield Sample(name, image, {"elems": elems}, has_fractions=True)


_Pairs = list[tuple[str, list[tuple[Any, list[float]]]]]


def _samples(value: Mapping[str, Any]) -> _Pairs:
    """Return the path and the detections of each sample, of all its fields that hold detections."""
    pairs: _Pairs = []
    for sample in value["samples"]:
        found = [field["detections"] for field in sample.values() if _has_detections(field)]
        pairs.append((sample["filepath"], [_detection(one) for detections in found for one in detections]))
    return pairs


def _has_detections(field: Any) -> bool:
    return isinstance(field, Mapping) and isinstance(field.get("detections"), list)


def _labels(value: Mapping[str, Any], folder: str) -> _Pairs:
    """Return the path and the detections of each photo, which the file names without suffix."""
    classes = value["classes"] or []
    places = {name.rpartition(".")[0]: name for name in storage.list_names(f"{folder}/data")}
    pairs: _Pairs = []
    for stem, detections in value["labels"].items():
        own = [_detection(one) for one in detections or ()]
        named = [(classes[label] if isinstance(label, int) else label, box) for label, box in own]
        pairs.append((places.get(stem, stem), named))
    return pairs


def _detection(one: Mapping[str, Any]) -> tuple[Any, list[float]]:
    return one["label"], [float(number) for number in one["bounding_box"]]


DATASET = Dataset("FiftyOne", "", "", ("all",), read)
