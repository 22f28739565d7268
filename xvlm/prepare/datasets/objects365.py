"""Objects365 (Shao et al., ICCV 2019): 365 categories of objects.

The release is `zhiyuan_objv2_train.json` (version 2) or `objects365_train.json` (version 1) in COCO's form,
and the images in `train/patchN/NAME.jpg` or `train/NAME.jpg`, whose last parts `file_name` has.
"""

from __future__ import annotations

from functools import cache

from xvlm.data.sources.coco import LeftOut, coco_fields
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord, normalize_id

FILES = ("zhiyuan_objv2_{}.json", "objects365_{}.json", "annotations/zhiyuan_objv2_{}.json")


def read(release: Release) -> Samples:
    """Yield each image with its objects; crowds are left out, and counted."""
    names = [one.format(release.split) for one in FILES]
    names_in = cache(lambda folder: set(release.names(folder)))
    left_out: LeftOut = {}
    found = coco_fields(release.json(*names), names[0], exhaustive=False, left_out=left_out)
    for _, fields in found:
        if isinstance(fields, BadRecord):
            yield fields
            continue
        yield from left_out.pop(normalize_id(fields["image_id"]), [])
        file = fields.pop("image")
        folder, _, name = file.rpartition("/")
        patch = folder.rpartition("/")[2]
        folders = (
            f"{release.split}/{patch}",
            release.split,
            f"images/{release.split}/{patch}",
            f"images/{patch}",
            folder,
        )
        place = next((one for one in folders if name in names_in(one.rstrip("/"))), folders[0])
        ids = {"objects365": normalize_id(fields["image_id"])}
        yield Sample(file, release.path(f"{place.rstrip('/')}/{name}"), fields, ids)
    yield from (bad for some in left_out.values() for bad in some)


DATASET = Dataset(
    "Objects365",
    "https://www.objects365.org/download.html",
    "annotations CC BY 4.0, for research; images under the terms of Flickr",
    ("train", "val"),
    read,
    published={"images": "0.58 M", "objects": "2.0 M"},
)
