"""FiftyOne's exports: FiftyOneDataset (`samples.json`) and FiftyOneImageDetectionDataset (`labels.json`).

Boxes are parts of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from xvlm.data.files import storage
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_entries
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
    if isinstance(value, Mapping) and isinstance(value.get("labels"), Mapping):
        classes = value.get("classes") or []
        places = {name.rpartition(".")[0]: name for name in storage.list_names(f"{folder}/data")}

        def of_labels(entry: tuple[str, Any]) -> Sample:
            stem, detections = entry
            return _sample(release, folder, places.get(stem, stem), list(detections or ()), classes)

        yield from read_entries(of_labels, value["labels"].items(), path)
    else:
        read_one = partial(_of_sample, release, folder)
        yield from read_entries(read_one, list_in(value, "samples", path), path)


def _of_sample(release: Release, folder: str, sample: Mapping[str, Any]) -> Sample:
    """Return a sample with the detections of all its fields that hold some."""
    found = [one for field in sample.values() if _has_detections(field) for one in field["detections"]]
    return _sample(release, folder, sample["filepath"], found, [])


def _has_detections(field: Any) -> bool:
    return isinstance(field, Mapping) and isinstance(field.get("detections"), list)


def _sample(
    release: Release, folder: str, name: str, detections: list[Mapping[str, Any]], classes: list[str]
) -> Sample:
    if not detections:
        raise BadRecord("image without annotation", name)
    elems = []
    for one in detections:
        label = one["label"]
        x, y, w, h = (float(number) for number in one["bounding_box"])
        text = classes[label] if isinstance(label, int) and not isinstance(label, bool) else label
        elems.append({"caption": text, "bb": [x, y, w, h]})
    image = find_image(name, name, release.images, folder, f"{folder}/data")
    return Sample(name, image, {"elems": elems}, has_fractions=True)


DATASET = Dataset("FiftyOne", "", "", ("all",), read)
