"""FiftyOne's exports: FiftyOneDataset (`samples.json`) and FiftyOneImageDetectionDataset (`labels.json`).

Boxes are parts of the image; of polylines that are closed or filled the box around them is taken.  All fields
of `samples.json` that hold some are read, but no detection with a confidence, which is a model's; that of
`labels.json` was chosen by whoever exported it.  The tags train, validation (or val) and test are splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_parts, read_with_parts
from xvlm.prepare.places import ImageFinder
from xvlm.prepare.release import ALL, ANY_PART, Contents, Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.prepare.shapes import box_around
from xvlm.records import BadRecord

_FILES = ("samples.json", "labels.json")
_SPLITS = ("train", "validation", "val", "test")
_LISTS = ("detections", "polylines", "keypoints", "classifications")
_SINGLE = ("Detection", "Polyline", "Keypoint", "Classification", "Segmentation", "Heatmap")
PREDICTION = "prediction, since it has a confidence"
Label = tuple[str, Mapping[str, Any]]
"""Name of the field, and a label in it."""


def recognises(path: str, value: Any) -> bool:
    """Return whether a folder or a file is an export."""
    if value is None:
        inside = [one for one in _FILES if one in storage.list_names(path)]
        value = read_json_value(f"{path}/{inside[0]}") if inside else None
    return isinstance(value, Mapping) and (
        isinstance(value.get("samples"), list) or {"classes", "labels"} <= value.keys()
    )


def contents(release: Release) -> Contents:
    """Return the splits and the fields with labels of an export."""
    _, _, value = _value(release)
    if not isinstance(value, Mapping) or not isinstance(value.get("samples"), list):
        return Contents()
    samples = [one for one in value["samples"] if isinstance(one, Mapping)]
    tags = {tag for one in samples for tag in _tags(one) if isinstance(tag, str)}
    fields = {
        name
        for one in samples
        for name, label in _labels_of(one)
        if isinstance(label, Mapping) and label.get("confidence") is None
    }
    return Contents([one for one in _SPLITS if one in tags], sorted(fields))


def read(release: Release) -> Samples:
    """Yield each sample with its labels."""
    folder, path, value = _value(release)
    if isinstance(value, Mapping) and isinstance(value.get("labels"), Mapping):
        classes = value.get("classes") or []
        files = {name.rpartition(".")[0]: name for name in storage.list_names(f"{folder}/data")}
        names = [files.get(stem, stem) for stem in value["labels"]]
        finder = ImageFinder(names, release.images, folder, f"{folder}/data")

        def of_labels(entry: tuple[str, Any], bad: list[BadRecord]) -> Sample:
            labels = [("labels", one) for one in entry[1] or ()]
            return _sample(finder, files.get(entry[0], entry[0]), labels, bad, classes)

        yield from read_with_parts(of_labels, value["labels"].items(), path)
        return
    samples = list_in(value, "samples", path)
    names = [str(one.get("filepath")) for one in samples if isinstance(one, Mapping)]
    finder = ImageFinder(names, release.images, folder, f"{folder}/data")

    def of_sample(sample: Mapping[str, Any], bad: list[BadRecord]) -> Sample | None:
        if release.split not in (ALL, *_tags(sample)):
            return None
        return _sample(finder, sample["filepath"], list(_labels_of(sample)), bad)

    yield from read_with_parts(of_sample, samples, path)


def _value(release: Release) -> tuple[str, str, Any]:
    """Return folder, file and content of an export."""
    path = release.root.rstrip("/")
    folder = path if storage.is_folder(path) else path.rpartition("/")[0] or "."
    if path == folder:
        inside = [one for one in _FILES if one in storage.list_names(folder)]
        if not inside:
            raise InputError(f"{folder} has neither {' nor '.join(_FILES)}")
        path = f"{folder}/{inside[0]}"
    return folder, path, read_json_value(path)


def _tags(sample: Mapping[str, Any]) -> list[Any]:
    tags = sample.get("tags")
    return tags if isinstance(tags, list) else []


def _labels_of(sample: Mapping[str, Any]) -> Iterator[Label]:
    """Yield the labels of a sample with the names of their fields."""
    for name, field in sample.items():
        if not isinstance(field, Mapping):
            continue
        found = next((field[one] for one in _LISTS if isinstance(field.get(one), list)), None)
        if found is not None:
            yield from ((name, one) for one in found)
        elif field.get("_cls") in _SINGLE:
            yield name, field


def _sample(
    finder: ImageFinder, name: str, labels: list[Label], bad: list[BadRecord], classes: Sequence[str] = ()
) -> Sample:
    elems = list(read_parts(partial(_elem, name, classes), labels, name, bad))
    if not elems:
        raise BadRecord("image without annotation", name)
    return Sample(name, finder.find(name, name), {"elems": elems}, has_fractions=True)


def _elem(name: str, classes: Sequence[str], label: Label) -> dict[str, Any]:
    field, one = label
    what = f"{field}: {one.get('_cls', 'Detection')} {one.get('label')}"
    if field != "labels" and one.get("confidence") is not None:
        raise BadRecord(PREDICTION, name, what)
    text = one.get("label")
    if isinstance(text, int) and not isinstance(text, bool):
        text = classes[text]
    if "bounding_box" in one:
        x, y, w, h = (float(number) for number in one["bounding_box"])
        return {"caption": text, "bb": [x, y, w, h]}
    if isinstance(one.get("points"), list) and (one.get("closed") or one.get("filled")):
        return {"caption": text, "bb": box_around((x, y) for part in one["points"] for x, y in part)}
    if one.get("_cls", "Detection") == "Detection":
        raise BadRecord("annotation without box", name, what)
    raise BadRecord("shape without area", name, what)


DATASET = Dataset("FiftyOne", "", "", ANY_PART, read, contents=contents)
