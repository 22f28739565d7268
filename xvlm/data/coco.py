"""COCO's form, one object with `images`, `annotations` and perhaps `categories` -> records' fields.

An image with all its annotations is one record: captions of the whole image (`caption`), regions (`bbox`,
whose text is the name of its category), or both in one annotation (a caption of a box).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from xvlm.data.short_repr import short_repr
from xvlm.errors import InputError, printable
from xvlm.records import BadRecord, same_id

_log = logging.getLogger(__name__)
_SIZE = ("width", "height")


def is_coco(found: Any) -> bool:
    """Whether a file's one JSON object has COCO's form: a list of images that each have an id."""
    images = found.get("images") if isinstance(found, Mapping) else None
    return (
        isinstance(images, list)
        and isinstance(found.get("annotations", []), list)
        and any(isinstance(image, Mapping) and "id" in image for image in images)
    )


def coco_fields(found: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """(key, fields in the published shapes) of every image that has an annotation, in the order of `images`.

    Where the file has no annotations at all, as those of a test set, every image is a record.  Annotations of
    crowds are left out, since their box holds several things; how many is logged.

    Returns:
        in the place of fields a `BadRecord` for an image that cannot be read, and one for each image that
        annotations name and `images` lacks.
    Raises:
        InputError: two images have one id, or an annotation is no object.
    """
    names = {
        one["id"]: one.get("name")
        for one in found.get("categories") or ()
        if isinstance(one, Mapping) and is_id(one.get("id"))
    }
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    crowds = 0
    for number, one in enumerate(found.get("annotations", ())):
        if not isinstance(one, Mapping) or not is_id(one.get("image_id")):
            shown = short_repr(one)
            raise InputError(f"{path}: annotation {number} is {shown}, expected an object with an image_id")
        if one.get("iscrowd"):
            crowds += 1
        else:
            of_image.setdefault(same_id(one["image_id"]), []).append(one)
    records: list[tuple[str, Any]] = []
    seen: set[Any] = set()
    without = 0
    for number, image in enumerate(found["images"]):
        key = f"{path}[{number}]"
        image_id = image.get("id") if isinstance(image, Mapping) else None
        if not is_id(image_id) or not isinstance(image.get("file_name"), str):
            detail = f"image is {short_repr(image)}, expected an object with id and file_name"
            records.append((key, BadRecord("wrong type", key, detail)))
            continue
        if same_id(image_id) in seen:
            raise InputError(f"{path}: two images have the id {short_repr(image_id)}")
        seen.add(same_id(image_id))
        annotations = of_image.get(same_id(image_id), [])
        if annotations or not found.get("annotations"):
            records.append((f"{path}, image {short_repr(image_id)}", _fields(image, annotations, names)))
        else:
            without += 1
    for image_id, annotations in of_image.items():
        if image_id not in seen:
            key = f"{path}, image {image_id if image_id.isdigit() else short_repr(image_id)}"
            detail = f"{len(annotations)} annotations are about it"
            records.append((key, BadRecord("image is not in images", key, detail)))
    for count, what in ((crowds, "annotations of crowds"), (without, "images without an annotation")):
        if count:
            _log.warning("%s: %d %s are left out", printable(path), count, what)
    return records


def _fields(
    image: Mapping[str, Any], annotations: list[Mapping[str, Any]], names: Mapping[Any, Any]
) -> dict[str, Any]:
    """One image in the published shape of region lines."""
    fields: dict[str, Any] = {"image": image["file_name"], "image_id": image["id"]}
    fields |= {name: image[name] for name in _SIZE if image.get(name) is not None}
    captions, elems = [], []
    for one in annotations:
        if "bbox" not in one:
            captions.append(one.get("caption"))
            continue
        category = one.get("category_id")
        # A category that is not there stands for itself, which is no text and a bad element.
        text = (
            one["caption"] if "caption" in one else names.get(category if is_id(category) else None, category)
        )
        elems.append({"caption": text, "bb": one["bbox"]})
    if captions:
        fields["caption"] = captions
    if elems:
        fields["elems"] = elems
    return fields


def is_id(value: Any) -> bool:
    """Whether a value may be the id of an image or a category."""
    return isinstance(value, int | str) and not isinstance(value, bool)
