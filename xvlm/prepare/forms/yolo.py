"""YOLO's folders: `data.yaml` with the names of classes, and a text file a photo.

A line is `class cx cy w h`, parts of the image, or `class x y x y ...`, an outline; with `kpt_shape` in
`data.yaml`, key points follow the box and are not read.  The labels of `.../images/.../NAME.jpg` are in
`.../labels/.../NAME.txt`, where the last folder called `images` counts, or beside the photo; a photo without
labels shows nothing.  `train`, `val` and `test` of `data.yaml` are splits, as folders or lists of photos;
Darknet's folders have `obj.names`, and lists `train.txt` and `valid.txt`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files import storage
from xvlm.prepare.places import checked_names, files_below, find_image
from xvlm.prepare.release import ALL, ANY_PART, Contents, Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.prepare.shapes import Box, box_around
from xvlm.records import BadRecord

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("obj.names", "classes.txt", "names.txt", "_darknet.labels")
_SPLITS = ("train", "val", "valid", "validation", "test")
_LARGEST = 1.01
"""Largest coordinate of an outline, of which 1 is the edge of the photo."""


@dataclass(frozen=True)
class _Config:
    """What is known of a data set.

    Attributes:
        folder: its folder.
        names: names of its classes by number.
        splits: paths of folders or lists by the name of a split.
        base: folder that these paths are relative to.
        key_points: numbers of a line behind its box; `None` if it may be an outline.
    """

    folder: str
    names: dict[int, str]
    splits: dict[str, list[str]]
    base: str = ""
    key_points: int | None = None


def recognises(path: str, value: Any) -> bool:
    """Return whether a folder has the names of classes, or a file is a `data.yaml`."""
    if path.endswith((".yaml", ".yml")):
        return True
    return bool({*_CONFIGS, *_NAMES} & set(storage.list_names(path)))


def contents(release: Release) -> Contents:
    """Return the splits of a data set."""
    return Contents(list(_config(release.root).splits))


def read(release: Release) -> Samples:
    """Yield each photo with its objects."""
    config = _config(release.root)
    for image in checked_images(config, release):
        if isinstance(image, BadRecord):
            yield image
            continue
        labels = _labels_of(image)
        found = list(_elems(labels, config)) if storage.exists(labels) else []
        yield from (one for one in found if isinstance(one, BadRecord))
        elems = [one for one in found if not isinstance(one, BadRecord)]
        if elems:
            yield Sample(image, image, {"elems": elems}, has_fractions=True)
        else:
            yield BadRecord("image without annotation", image)


def checked_images(config: _Config, release: Release) -> Iterator[str | BadRecord]:
    """Yield the photos of a split, each once, or all of them."""
    splits = config.splits if release.split == ALL else {release.split: config.splits[release.split]}
    paths = [path for some in splits.values() for path in some]
    if release.images and release.split == ALL:
        yield from checked_names(files_below(release.images, IMAGES))
        return
    folders = [release.images or config.base, config.base, config.folder]
    places = {path: _place(path, folders) for path in paths}
    if not any(places.values()):
        if release.split != ALL:
            raise InputError(f"{release.root}: {', '.join(paths)} of the split {release.split} is not there")
        yield from checked_names(files_below(config.folder, IMAGES))
        return
    seen: set[str] = set()
    for path, place in places.items():
        if place is None:
            yield BadRecord("folder or list of a split missing", path)
            continue
        is_list = place.lower().endswith(".txt")
        some = _listed(place, folders) if is_list else checked_names(files_below(place, IMAGES))
        for image in some:
            if isinstance(image, BadRecord) or image not in seen:
                yield image
                seen |= {image} if isinstance(image, str) else set()
    if release.split == ALL:
        yield from _unlisted(config.folder, seen)


def _unlisted(folder: str, listed: set[str]) -> Iterator[BadRecord]:
    """Yield photos of a folder that have labels and are in no split."""
    known = {storage.absolute(one) for one in listed}
    for image in checked_names(files_below(folder, IMAGES)):
        if (
            isinstance(image, str)
            and storage.absolute(image) not in known
            and storage.exists(_labels_of(image))
        ):
            yield BadRecord("photo with labels is in no split", image)


def _place(path: str, folders: list[str]) -> str | None:
    """Return where a folder or list of a split is, or `None`."""
    for folder in folders:
        # Some data sets are unpacked beside, and others below the folder that their paths begin from.
        for one in (path, path.removeprefix("../")):
            place = one if os.path.isabs(one) or storage.is_remote(one) else f"{folder.rstrip('/')}/{one}"
            plain = place if storage.is_remote(place) else os.path.normpath(place)
            if storage.exists(plain):
                return plain
    return None


def _listed(path: str, folders: list[str]) -> Iterator[str | BadRecord]:
    """Yield the photos of a list."""
    parent = os.path.dirname(path) or "."
    for line in storage.read_all(path).decode("utf-8-sig", "replace").splitlines():
        if name := line.strip():
            try:
                yield find_image(name, name, None, parent, *folders)
            except BadRecord as error:
                yield error


def _config(root: str) -> _Config:
    """Return what is known of a data set.  Raises InputError if the names of classes are not."""
    folder = root if storage.is_folder(root) else os.path.dirname(root) or "."
    path = root if root != folder and root.endswith((".yaml", ".yml")) else None
    inside = storage.list_names(folder)
    path = path or next((f"{folder}/{one}" for one in _CONFIGS if one in inside), None)
    if path is None:
        file = next((f"{folder}/{one}" for one in _NAMES if one in inside), None)
        if file is None:
            raise InputError(
                f"{folder} has none of {', '.join((*_CONFIGS, *_NAMES))}, which name the classes"
            )
        try:
            lines = storage.read_all(file).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
        names = dict(enumerate(line.strip() for line in lines if line.strip()))
        lists = {one: [f"{one}.txt"] for one in _SPLITS if f"{one}.txt" in inside}
        return _Config(folder, names, lists, folder)
    import yaml

    try:
        value = yaml.safe_load(storage.read_all(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    value = value if isinstance(value, dict) else {}
    base = value.get("path")
    base = _place(base, [folder]) if isinstance(base, str) else None
    splits = {one: _strings(value.get(one)) for one in _SPLITS if _strings(value.get(one))}
    return _Config(folder, _class_names(value, path), splits, base or folder, _key_points(value, path))


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str) and one]


def _class_names(value: dict[Any, Any], path: str) -> dict[int, str]:
    names = value.get("names")
    numbered = (
        names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
    )
    found = {int(key): str(name) for key, name in numbered if str(key).isdecimal()}
    if not found or len(found) != len(names or ()):
        raise InputError(f"{path} has no names of classes: names is {short_repr(names)}")
    return found


def _key_points(value: dict[Any, Any], path: str) -> int | None:
    """Return how many numbers of a line are those of key points, or `None` if there are none."""
    shape = value.get("kpt_shape")
    if shape is None:
        return None
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(one) is int and one > 0 for one in shape)
    ):
        raise InputError(f"{path}: kpt_shape is {short_repr(shape)}, expected [number of points, 2 or 3]")
    return math.prod(shape)


def _labels_of(image: str) -> str:
    """Return the path of the labels of a photo: the last folder `images` becomes `labels`, or beside it."""
    stem = os.path.splitext(image)[0]
    whole = storage.absolute(stem)
    before, found, after = whole.rpartition("/images/")
    beside = f"{stem}.txt"
    if not found:
        return beside
    labels = f"{before}/labels/{after}.txt"
    if not storage.exists(labels) and storage.exists(beside):
        return beside
    return labels if storage.is_remote(image) or os.path.isabs(image) else os.path.relpath(labels)


def _elems(path: str, config: _Config) -> Iterator[dict[str, Any] | BadRecord]:
    """Yield the object of each line of a file of labels, or why there is none."""
    # A byte that is not UTF-8 is no part of a number, so that its line is found to be wrong.
    for number, line in enumerate(storage.read_all(path).decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            first, *rest = line.split()
            label = float(first)
            if not label.is_integer() or int(label) not in config.names:
                raise ValueError(f"there is no class {first}")
            yield {"caption": config.names[int(label)], "bb": _box([float(one) for one in rest], config)}
        except (OverflowError, ValueError) as error:
            yield BadRecord("wrong type", f"{path}:{number}", f"{line[:80]!r}: {error}")


def _box(numbers: list[float], config: _Config) -> Box:
    """Return the box of the numbers behind the class.  Raises ValueError if they are none."""
    if len(numbers) in (4, 5) or len(numbers) - 4 == config.key_points:  # the fifth is a confidence
        cx, cy, w, h = numbers[:4]
        return [cx - w / 2, cy - h / 2, w, h]
    if config.key_points is None and len(numbers) >= 6 and len(numbers) % 2 == 0:
        if max(numbers) > _LARGEST:
            raise ValueError(f"{max(numbers):g} is outside the photo, so that it is no outline")
        return box_around(zip(numbers[0::2], numbers[1::2], strict=True))
    raise ValueError("it is neither a box nor an outline")


DATASET = Dataset("YOLO", "", "", ANY_PART, read, contents=contents)
