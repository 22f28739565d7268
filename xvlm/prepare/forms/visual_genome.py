"""Region descriptions in Visual Genome's form; photos are `ID.jpg`, or named by `image`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_entries
from xvlm.prepare.places import find_image
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has the form."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and isinstance(first.get("regions"), list)


def read(release: Release) -> Samples:
    """Yield each photo with its regions."""
    images = list_in(read_json_value(release.root), "", release.root)
    yield from read_entries(partial(_sample, release), images, release.root)


def _sample(release: Release, one: Mapping[str, Any]) -> Sample:
    folder = release.root.rpartition("/")[0] or "."
    key = str(one.get("image") or f"{one.get('id', one.get('image_id'))}.jpg")
    elems = [
        {"caption": region["phrase"], "bb": [region[side] for side in ("x", "y", "width", "height")]}
        for region in one["regions"]
    ]
    image = find_image(key, key, release.images, folder, f"{folder}/VG_100K", f"{folder}/VG_100K_2")
    return Sample(key, image, {"elems": elems, **declared_size(one.get("width"), one.get("height"))})


DATASET = Dataset("Visual Genome's regions", "", "", ("all",), read)
