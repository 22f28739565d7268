"""COCO's form, as COCO and annotation tools write it; also MDETR's, with a caption for each image.

A segmentation without a box gets the box around it.  Categories are absent from an image only if it names
them (`neg_category_ids`, as in LVIS): nobody may have looked for the others.
"""

from __future__ import annotations

from typing import Any

from xvlm.data.sources.coco import LeftOut, coco_fields, is_coco
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.places import ImageFinder
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples, declared_size
from xvlm.records import BadRecord, normalize_id


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has COCO's form."""
    return is_coco(value)


def read(release: Release) -> Samples:
    """Yield each image with its annotations; images are beside the file, or below its folder."""
    value = read_json_value(release.root)
    if not is_coco(value):
        raise BadRecord("not in COCO's form", release.root)
    folder = release.root.rpartition("/")[0] or "."
    left_out: LeftOut = {}
    found = coco_fields(value, release.root, exhaustive=False, left_out=left_out)
    names = [fields["image"] for _, fields in found if not isinstance(fields, BadRecord)]
    finder = ImageFinder(names, release.images, folder)
    for key, fields in found:
        if isinstance(fields, BadRecord):
            yield fields
            continue
        yield from left_out.pop(normalize_id(fields["image_id"]), [])
        size = declared_size(fields.pop("width", None), fields.pop("height", None))
        try:
            yield Sample(key, finder.find(key, fields.pop("image")), fields | size)
        except BadRecord as error:
            yield error
    yield from (bad for some in left_out.values() for bad in some)


DATASET = Dataset("COCO's form", "", "", ("all",), read)
