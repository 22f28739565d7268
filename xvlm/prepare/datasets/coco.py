"""COCO (Lin et al., 2014): captions and objects, on Karpathy's split of the images or COCO's own.

The release is COCO's `annotations` folder and image folders (`train2014`, `val2014`, ...), and Karpathy's
`dataset_coco.json` (Karpathy and Fei-Fei, 2015), whose `restval` images belong to training.  Objects come
from `instances_*.json`: the name of the category is the text.  COCO looked for its 80 categories in every
image, so that those without an annotation there, not even one of a crowd, are absent from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.data.sources.coco import NO_ANNOTATION, LeftOut, coco_fields, is_image
from xvlm.prepare.common_ids import flickr_id
from xvlm.prepare.entries import read_entries
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id

SPLIT_FILES = ("dataset_coco.json", "annotations/dataset_coco.json")
KARPATHY = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
OWN = ("train2014", "val2014", "train2017", "val2017")


def read(release: Release) -> Samples:
    """Yield each image with its captions and objects.

    In Karpathy's parts images have captions, and objects if `instances_*2014.json` are there.
    """
    split = release.split
    if split in KARPATHY:
        yield from _read_karpathy(release, KARPATHY[split])
        return
    captions = _Annotations(release, f"annotations/captions_{split}.json", "captions")
    objects = _Annotations(release, f"annotations/instances_{split}.json", "elems")
    known = {**objects.images, **captions.images}
    if not known:
        release.find(f"annotations/captions_{split}.json", f"annotations/instances_{split}.json")
    yield from captions.bad
    yield from objects.bad
    for image_id, image in known.items():
        yield from captions.left_out_of(image_id) + objects.left_out_of(image_id)
        fields = {**captions.fields.get(image_id, {}), **objects.fields.get(image_id, {})}
        if not fields:
            yield BadRecord("image without annotation", image["file_name"])
            continue
        yield _sample(release, f"{split}/{image['file_name']}", image_id, image, fields)


def _read_karpathy(release: Release, parts: tuple[str, ...]) -> Samples:
    objects: dict[str, Mapping[str, Any]] = {}
    images: dict[str, Mapping[str, Any]] = {}
    left_out: dict[str, list[BadRecord]] = {}
    for year in ("train2014", "val2014"):
        found = _Annotations(release, f"annotations/instances_{year}.json", "elems")
        objects |= found.fields
        images |= found.images
        left_out |= {image_id: found.left_out_of(image_id) for image_id in found.left_out if image_id}
        yield from found.bad

    def read_one(image: Mapping[str, Any]) -> Sample | None:
        if image["split"] not in parts:
            return None
        image_id = normalize_id(image["cocoid"])
        captions = [sentence["raw"] for sentence in image["sentences"]]
        fields = {"caption": captions, **objects.get(image_id, {})}
        file = f"{image['filepath']}/{image['filename']}"
        return _sample(release, file, image_id, images.get(image_id, {}), fields)

    for one in read_entries(read_one, release.json_list("images", *SPLIT_FILES), SPLIT_FILES[0]):
        yield one
        if isinstance(one, Sample):
            yield from left_out.pop(one.ids["coco"], [])


class _Annotations:
    """Images, fields by image and what is bad, of a file in COCO's form; nothing if there is no such file."""

    def __init__(self, release: Release, name: str, kind: str) -> None:
        self.images: dict[str, Mapping[str, Any]] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.bad: list[BadRecord] = []
        self.left_out: LeftOut = {}
        if not release.find_all(name):
            return
        value = release.json(name)
        found = coco_fields(value, name, left_out=self.left_out)  # which checks the images
        self.bad = [fields for _, fields in found if isinstance(fields, BadRecord)]
        self.bad += self.left_out.get("", [])
        self.images = {normalize_id(image["id"]): image for image in value["images"] if is_image(image)}
        for _, fields in found:
            if not isinstance(fields, BadRecord):
                used = {one: fields[one] for one in ("caption", "elems", "absent") if one in fields}
                self.fields[normalize_id(fields["image_id"])] = used

    def left_out_of(self, image_id: str) -> list[BadRecord]:
        """Return what is left out of an image; that it has no annotation here is no loss by itself."""
        return [one for one in self.left_out.get(image_id, []) if one.reason != NO_ANNOTATION]


def _sample(
    release: Release, file: str, image_id: str, image: Mapping[str, Any], fields: Mapping[str, Any]
) -> Sample:
    size = {name: image[name] for name in ("width", "height") if name in image}
    ids = {"coco": image_id, **flickr_id(image.get("flickr_url"))}
    return Sample(file, release.path(file), {"image_id": int(image_id), **size, **fields}, ids)


DATASET = Dataset(
    "COCO",
    "https://cocodataset.org/#download",
    "annotations CC BY 4.0; images under the terms of Flickr",
    (*KARPATHY, *OWN),
    read,
    published={"images": "0.11 M", "captions": "0.55 M", "objects": "0.45 M"},
)
