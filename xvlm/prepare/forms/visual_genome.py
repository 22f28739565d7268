"""Region descriptions in Visual Genome's form; photos are `ID.jpg`, or named by `image`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.entries import list_in, read_parts, read_with_parts
from xvlm.prepare.places import ImageFinder
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.records import BadRecord


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has the form."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and isinstance(first.get("regions"), list)


def read(release: Release) -> Samples:
    """Yield each photo with its regions."""
    images = list_in(read_json_value(release.root), "", release.root)
    folder = release.root.rpartition("/")[0] or "."
    names = [_name(one) for one in images if isinstance(one, Mapping)]
    finder = ImageFinder(names, release.images, folder, f"{folder}/VG_100K", f"{folder}/VG_100K_2")

    def read_one(one: Mapping[str, Any], bad: list[BadRecord]) -> Sample:
        key = _name(one)
        elems = list(read_parts(_elem, one["regions"], key, bad))
        if not elems:
            raise BadRecord("image without annotation", key)
        size = declared_size(one.get("width"), one.get("height"))
        return Sample(key, finder.find(key, key), {"elems": elems, **size})

    yield from read_with_parts(read_one, images, release.root)


def _name(one: Mapping[str, Any]) -> str:
    return str(one.get("image") or f"{one.get('id', one.get('image_id'))}.jpg")


def _elem(region: Mapping[str, Any]) -> dict[str, Any]:
    return {"caption": region["phrase"], "bb": [region[side] for side in ("x", "y", "width", "height")]}


DATASET = Dataset("Visual Genome's regions", "", "", ("all",), read)
