"""YOLO's folders: `data.yaml` with the names of classes, and a text file a photo.

A line is `class cx cy w h`, parts of the image, or `class x y x y ...`, an outline.  The labels of
`.../images/.../NAME.jpg` are in `.../labels/.../NAME.txt`; a photo without one shows nothing.  Darknet's
folders have `obj.names` and the text files beside the photos.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files import storage
from xvlm.prepare.places import files_below
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("obj.names", "classes.txt", "names.txt")


def recognises(path: str, value: Any) -> bool:
    """Return whether a folder has the names of classes, or a file is a `data.yaml`."""
    if path.endswith((".yaml", ".yml")):
        return True
    return bool({*_CONFIGS, *_NAMES} & set(storage.list_names(path)))


def read(release: Release) -> Samples:
    """Yield each photo with its objects."""
    folder, names = _classes(release.root)
    for image in files_below(release.images or folder, IMAGES):
        labels = _labels_of(image)
        try:
            elems = list(_elems(labels, names)) if storage.exists(labels) else []
            if not elems:
                raise BadRecord("image without annotation", image)
        except BadRecord as error:
            yield error
            continue
        yield Sample(image, image, {"elems": elems}, has_fractions=True)


def _classes(root: str) -> tuple[str, dict[int, str]]:
    """Return folder and class names of a data set."""
    folder = root if storage.is_folder(root) else os.path.dirname(root) or "."
    config = root if root != folder and root.endswith((".yaml", ".yml")) else None
    inside = storage.list_names(folder)
    config = config or next((f"{folder}/{one}" for one in _CONFIGS if one in inside), None)
    if config is None:
        file = next((f"{folder}/{one}" for one in _NAMES if one in inside), None)
        if file is None:
            raise InputError(
                f"{folder} has none of {', '.join((*_CONFIGS, *_NAMES))}, which name the classes"
            )
        try:
            lines = storage.read_all(file).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
        return folder, dict(enumerate(line.strip() for line in lines if line.strip()))
    import yaml

    try:
        value = yaml.safe_load(storage.read_all(config))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config} is not YAML: {' '.join(str(error).split())}") from error
    names = value.get("names") if isinstance(value, dict) else None
    numbered = (
        names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
    )
    found = {int(key): str(name) for key, name in numbered if str(key).isdecimal()}
    if not found or len(found) != len(names or ()):
        raise InputError(f"{config} has no names of classes: names is {short_repr(names)}")
    return folder, found


def _labels_of(image: str) -> str:
    """Return the path of the labels of a photo: the last folder `images` becomes `labels`."""
    stem = os.path.splitext(image)[0]
    before, found, after = stem.rpartition("/images/")
    return f"{before}/labels/{after}.txt" if found else f"{stem}.txt"


def _elems(path: str, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    # A byte that is not UTF-8 is no part of a number, so that its line is found to be wrong.
    for number, line in enumerate(storage.read_all(path).decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            first, *rest = line.split()
            numbers = [float(one) for one in rest]
            label = names[int(float(first))]
        except (ValueError, KeyError) as error:
            raise BadRecord("wrong type", f"{path}:{number}", f"{line[:80]!r}: {error}") from error
        if len(numbers) in (4, 5):  # the fifth is a confidence
            cx, cy, w, h = numbers[:4]
            box = [cx - w / 2, cy - h / 2, w, h]
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            x, y = numbers[0::2], numbers[1::2]
            box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        else:
            raise BadRecord(
                "wrong type", f"{path}:{number}", f"{line[:80]!r} is neither a box nor an outline"
            )
        yield {"caption": label, "bb": box}


DATASET = Dataset("YOLO", "", "", ("all",), read)
