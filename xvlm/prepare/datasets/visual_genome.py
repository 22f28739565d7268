"""Visual Genome (Krishna et al., 2017): descriptions of regions, and objects with attributes.

The release is `image_data.json`, `region_descriptions.json`, `objects.json`, `attributes.json`, and images
`ID.jpg` in two folders, `VG_100K` and `VG_100K_2`.  An object's text is its first name, and its attributes
may be put before it, as in the paper.  `image_data.json` has the ids of COCO and Flickr, by which images of
evaluation sets are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id

FOLDERS = ("VG_100K", "VG_100K_2")


def read(release: Release) -> Samples:
    """Yield each image with its regions, its objects, or both."""
    elems: dict[int, list[dict[str, Any]]] = {}
    if release.split in ("all", "regions"):
        for image in release.json("region_descriptions.json"):
            elems.setdefault(image["id"], []).extend(map(_region, image["regions"]))
    if release.split in ("all", "objects"):
        attributes = _attributes(release)
        for image in release.json("objects.json"):
            own = elems.setdefault(image["image_id"], [])
            own += [_object(one, attributes) for one in image["objects"]]
    places = _places(release)
    for image in release.json("image_data.json"):
        image_id = image["image_id"]
        key = f"{image_id}.jpg"
        if not elems.get(image_id):
            yield BadRecord("image without annotation", key)
            continue
        if key not in places:
            yield BadRecord("image file missing", key, f"in neither {FOLDERS[0]} nor {FOLDERS[1]}")
            continue
        fields = {"image_id": image_id, "width": image["width"], "height": image["height"]}
        yield Sample(key, places[key], {**fields, "elems": elems.pop(image_id)}, _ids(image))


def _region(region: Mapping[str, Any]) -> dict[str, Any]:
    return {"caption": region["phrase"].strip(), "bb": [region[one] for one in ("x", "y", "width", "height")]}


def _object(one: Mapping[str, Any], attributes: Mapping[int, list[str]]) -> dict[str, Any]:
    elem: dict[str, Any] = {"caption": next(iter(one["names"]), None), "bb": [one[side] for side in "xywh"]}
    words = attributes.get(one["object_id"], [])
    return elem | ({"attributes": words} if words else {})


def _attributes(release: Release) -> dict[int, list[str]]:
    """Return the attributes of each object; none without the file."""
    if not release.find_all("attributes.json"):
        return {}
    return {
        one["object_id"]: list(
            dict.fromkeys(word.strip() for word in one.get("attributes") or () if word.strip())
        )
        for image in release.json("attributes.json")
        for one in image["attributes"]
    }


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
    published={"images": "0.10 M", "regions and objects": "5.7 M"},
)
