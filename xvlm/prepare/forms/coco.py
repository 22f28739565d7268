"""COCO's form, as COCO and annotation tools write it; also MDETR's, with a caption for each image.

Where a tool wrote outlines alone (`segmentation`), boxes are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.data.files import storage
from xvlm.data.sources.coco import coco_fields, is_coco
from xvlm.data.sources.refcoco import read_json_value
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord


def recognises(path: str, value: Any) -> bool:
    """Return whether a file has COCO's form."""
    return is_coco(value)


def read(release: Release) -> Samples:
    """Yield each image with its annotations; images are relative to the folder of the file."""
    value = read_json_value(release.root)
    if not is_coco(value):
        raise BadRecord("not in COCO's form", release.root)
    annotations = [
        _with_box(one) if isinstance(one, Mapping) else one for one in value.get("annotations", [])
    ]
    folder = release.images or release.root.rpartition("/")[0] or "."
    for key, fields in coco_fields({**value, "annotations": annotations}, release.root):
        if isinstance(fields, BadRecord):
            yield fields
            continue
        try:
            yield Sample(key, storage.join(folder, fields.pop("image")), fields)
        except BadRecord as error:
            yield error


def _with_box(annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an annotation with the box around its outlines, if it has these alone."""
    outlines = annotation.get("segmentation")
    if annotation.get("bbox") or not isinstance(outlines, list):
        return annotation
    try:
        x = [float(number) for outline in outlines for number in outline[0::2]]
        y = [float(number) for outline in outlines for number in outline[1::2]]
    except (OverflowError, TypeError, ValueError):
        return annotation
    if not (x and y):
        return annotation
    return {**annotation, "bbox": [min(x), min(y), max(x) - min(x), max(y) - min(y)]}


DATASET = Dataset("COCO's form", "", "", ("all",), read)
