"""nocaps (Agrawal et al., ICCV 2019): ten captions each of photos of Open Images, to evaluate captioning.

The release is `nocaps_val_4500_captions.json` and `nocaps_test_image_info.json` in COCO's form, with the
domain of each image, and its file in the folder `images` or `val`.
"""

from __future__ import annotations

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

FILES = {"val": "nocaps_val_4500_captions.json", "test": "nocaps_test_image_info.json"}
_FIELDS = ("width", "height", "domain")


def read(release: Release) -> Samples:
    """Yield each image with its captions; the test set has none."""
    value = release.json(FILES[release.split])
    captions: dict[int, list[str]] = {}
    for one in value.get("annotations", ()):
        captions.setdefault(one["image_id"], []).append(one["caption"])
    folder = release.split if release.names(release.split) else "images"
    for image in value["images"]:
        file = image["file_name"]
        fields = {"image_id": image["id"], **{name: image[name] for name in _FIELDS if name in image}}
        if release.split == "val":
            if image["id"] not in captions:
                yield BadRecord("image without annotation", file)
                continue
            fields["caption"] = captions[image["id"]]
        ids = {"openimages": image["open_images_id"]} if "open_images_id" in image else {}
        yield Sample(file, release.path(f"{folder}/{file}"), fields, ids)


DATASET = Dataset(
    "nocaps",
    "https://nocaps.org/download",
    "CC BY 2.0",
    tuple(FILES),
    read,
    "lines",
    {"images": "4,500 / 10,600", "captions": "45,000 / 106,000, hidden"},
)
