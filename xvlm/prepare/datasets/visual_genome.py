"""Visual Genome (Krishna et al., 2017): descriptions of regions, and objects with attributes.

The release is `image_data.json`, `region_descriptions.json`, `objects.json`, `attributes.json`, and images
`ID.jpg` in two folders, `VG_100K` and `VG_100K_2`.  `image_data.json` has the ids of COCO and Flickr, by
which images of evaluation sets are found.

An object's text is the first of its names.  Its attributes are those of `attributes.json` with the same
`object_id`, each once and without the spaces around it; they are kept beside the text, and training puts one
of them before it, another one each time.  The text of a region is its phrase without the spaces around it.
Shards hold texts as they were released; training lower-cases them and removes punctuation, as the published
code does.  Objects without a name, empty texts, and boxes that are empty or outside of the image are left out
and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from xvlm.prepare.entries import read_entries, read_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id

_Read = TypeVar("_Read")
FOLDERS = ("VG_100K", "VG_100K_2")


def read(release: Release) -> Samples:
    """Yield each image with its regions, its objects, or both."""
    elems: dict[int, list[dict[str, Any]]] = {}
    bad: list[BadRecord] = []
    if release.split in ("all", "regions"):
        file = "region_descriptions.json"
        for image_id, elem in _each(release.json_list("", file), "id", "regions", _region, file, bad):
            elems.setdefault(image_id, []).append(elem)
    if release.split in ("all", "objects"):
        attributes = _attributes(release, bad)
        file = "objects.json"
        for image_id, elem in _each(release.json_list("", file), "image_id", "objects", _object, file, bad):
            words = attributes.get(elem.pop("object_id"), [])
            elems.setdefault(image_id, []).append(elem | ({"attributes": words} if words else {}))
    yield from bad
    places = _places(release)
    unknown = set(elems)

    def read_one(image: Mapping[str, Any]) -> Sample:
        image_id = int(image["image_id"])
        key = f"{image_id}.jpg"
        unknown.discard(image_id)
        if not elems.get(image_id):
            raise BadRecord("image without annotation", key)
        if key not in places:
            raise BadRecord("image file missing", key, f"in neither {FOLDERS[0]} nor {FOLDERS[1]}")
        fields = {"image_id": image_id, "width": image["width"], "height": image["height"]}
        return Sample(key, places[key], {**fields, "elems": elems.pop(image_id)}, _ids(image))

    yield from read_entries(read_one, release.json_list("", "image_data.json"), "image_data.json")
    for image_id in sorted(unknown):
        detail = f"{len(elems[image_id])} regions and objects refer to it"
        yield BadRecord("image is not in image_data.json", f"{image_id}.jpg", detail)


def _each(
    images: list[Any],
    id_key: str,
    key: str,
    read_one: Callable[[Any], _Read],
    file: str,
    bad: list[BadRecord],
) -> Iterator[tuple[int, _Read]]:
    """Yield (id of the image, what a function makes of a part) for each part of each image of a file.

    Args:
        id_key, key: names of the id and of the list of parts of an image.
        bad: receives what is not as released.
    """

    def parts(image: Mapping[str, Any]) -> tuple[int, list[Any]]:
        return int(image[id_key]), list(image[key])

    for image_id, own in read_parts(parts, images, file, bad):
        yield from ((image_id, one) for one in read_parts(read_one, own, f"{file}, image {image_id}", bad))


def _region(region: Mapping[str, Any]) -> dict[str, Any]:
    return {"caption": region["phrase"].strip(), "bb": [region[one] for one in ("x", "y", "width", "height")]}


def _object(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "caption": next(iter(one["names"]), None),
        "bb": [one[side] for side in "xywh"],
        "object_id": int(one["object_id"]),
    }


def _attributes(release: Release, bad: list[BadRecord]) -> dict[int, list[str]]:
    """Return the attributes of each object; none without the file."""
    file = "attributes.json"
    if not release.find_all(file):
        return {}
    found = _each(release.json_list("", file), "image_id", "attributes", _words, file, bad)
    return dict(pair for _, pair in found)


def _words(one: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return an object's id and its different attributes."""
    words = (word.strip() for word in one.get("attributes") or ())
    return int(one["object_id"]), list(dict.fromkeys(word for word in words if word))


def _places(release: Release) -> dict[str, str]:
    """Return the path of each image file by its name."""
    found = {}
    for folder in FOLDERS:
        for prefix in ("", "images/"):
            for name in release.names(prefix + folder):
                found[name] = release.path(f"{prefix}{folder}/{name}")
    return found


def _ids(image: Mapping[str, Any]) -> dict[str, str]:
    names = {"vg": image["image_id"], "coco": image.get("coco_id"), "flickr": image.get("flickr_id")}
    return {name: normalize_id(value) for name, value in names.items() if value not in (None, -1)}


DATASET = Dataset(
    "Visual Genome",
    "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html",
    "CC BY 4.0",
    ("all", "regions", "objects"),
    read,
    published={"images": "0.10 M", "objects": "2.0 M", "regions": "3.7 M"},
)
