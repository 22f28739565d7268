"""nocaps (Agrawal et al., ICCV 2019): ten captions each of photos of Open Images, to evaluate captioning.

The release is `nocaps_val_4500_captions.json` and `nocaps_test_image_info.json` in COCO's form, with the
domain of each image, and its file in the folder `images` or `val`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.entries import list_in, read_entries, read_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

FILES = {"val": "nocaps_val_4500_captions.json", "test": "nocaps_test_image_info.json"}
_FIELDS = ("width", "height", "domain")


def read(release: Release) -> Samples:
    """Yield each image with its captions; the test set has none."""
    name = FILES[release.split]
    value = release.json(name)
    captions: dict[int, list[str]] = {}
    if release.split == "val":
        bad: list[BadRecord] = []
        for image_id, text in read_parts(_caption, list_in(value, "annotations", name), name, bad):
            captions.setdefault(image_id, []).append(text)
        yield from bad
    folder = release.split if release.names(release.split) else "images"

    def read_one(image: Mapping[str, Any]) -> Sample:
        file = image["file_name"]
        fields = {"image_id": image["id"], **{name: image[name] for name in _FIELDS if name in image}}
        if release.split == "val":
            if image["id"] not in captions:
                raise BadRecord("image without annotation", str(file))
            fields["caption"] = captions[image["id"]]
        ids = {"openimages": str(image["open_images_id"])} if "open_images_id" in image else {}
        return Sample(file, release.path(f"{folder}/{file}"), fields, ids)

    yield from read_entries(read_one, list_in(value, "images", name), name)


def _caption(one: Mapping[str, Any]) -> tuple[int, str]:
    """Return an image's id and a caption of it."""
    return int(one["image_id"]), one["caption"]


DATASET = Dataset(
    "nocaps",
    "https://nocaps.org/download",
    "CC BY 2.0",
    tuple(FILES),
    read,
    "lines",
    {"images": "4,500 / 10,600", "captions": "45,000 / 106,000, hidden"},
)
