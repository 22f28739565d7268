"""Convert COCO's form, one object with `images`, `annotations` and optionally `categories`, to record fields.

An image with all its annotations is one record: captions of the whole image (`caption`), regions (`bbox`,
with the name of the category as text), or both in one annotation (a caption of a box).  In MDETR's form an
image has a caption, and an annotation the characters of it that describe a box (`tokens_positive`).

COCO's annotations are exhaustive, which its average precision relies on: a category of the file without an
annotation in an image is absent from it.  An image of LVIS names those that are (`neg_category_ids`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from xvlm.common.errors import InputError, printable
from xvlm.common.short_repr import short_repr
from xvlm.records import BadRecord, normalize_id

_log = logging.getLogger(__name__)
_SIZE = ("width", "height")


def is_coco(value: Any) -> bool:
    """Return whether a JSON value has COCO's form: a list of images that have an id."""
    images = value.get("images") if isinstance(value, Mapping) else None
    return (
        isinstance(images, list)
        and isinstance(value.get("annotations", []), list)
        and any(isinstance(image, Mapping) and "id" in image for image in images)
    )


def coco_fields(value: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    """Return (key, fields) of every image that has an annotation, in the order of `images`.

    The fields have the published form of region lines.  If the file has no annotations at all, as for a test
    set, every image is a record.  Crowd annotations are left out and counted in the log, since one box covers
    several objects.

    Returns:
        (key, `BadRecord`) for an image that cannot be read, and for each image that annotations name and
        `images` lacks.
    Raises:
        InputError: two images have the same id, an annotation is not an object, or a list is missing.
    """
    for name, default in (("images", None), ("annotations", []), ("categories", [])):
        part = value.get(name, default) if isinstance(value, Mapping) else None
        if not isinstance(part, list) and not (name == "categories" and part is None):
            raise InputError(f"{path}: {name} is {short_repr(part)}, expected a list of objects")
    category_names = {
        category["id"]: category.get("name")
        for category in value.get("categories") or ()
        if isinstance(category, Mapping) and is_id(category.get("id"))
    }
    annotations_of: dict[Any, list[Mapping[str, Any]]] = {}
    crowds = 0
    crowded: dict[Any, set[Any]] = {}
    for number, annotation in enumerate(value.get("annotations", ())):
        if not isinstance(annotation, Mapping) or not is_id(annotation.get("image_id")):
            found = short_repr(annotation)
            raise InputError(f"{path}: annotation {number} is {found}, expected an object with an image_id")
        if annotation.get("iscrowd"):
            crowds += 1
            crowded.setdefault(normalize_id(annotation["image_id"]), set()).add(annotation.get("category_id"))
        else:
            annotations_of.setdefault(normalize_id(annotation["image_id"]), []).append(annotation)
    records: list[tuple[str, Any]] = []
    image_ids: set[Any] = set()
    without = 0
    for number, image in enumerate(value["images"]):
        key = f"{path}[{number}]"
        if not is_image(image):
            detail = f"image is {short_repr(image)}, expected an object with id and file_name"
            records.append((key, BadRecord("wrong type", key, detail)))
            continue
        image_id = image["id"]
        if normalize_id(image_id) in image_ids:
            raise InputError(f"{path}: two images have the id {short_repr(image_id)}")
        image_ids.add(normalize_id(image_id))
        annotations = annotations_of.get(normalize_id(image_id), [])
        if annotations or not value.get("annotations"):
            fields = _fields(image, annotations, category_names, crowded.get(normalize_id(image_id), set()))
            records.append((f"{path}, image {short_repr(image_id)}", fields))
        else:
            without += 1
    for image_id, annotations in annotations_of.items():
        if image_id not in image_ids:
            key = f"{path}, image {image_id if image_id.isdigit() else short_repr(image_id)}"
            detail = f"{len(annotations)} annotations refer to it"
            records.append((key, BadRecord("image is not in images", key, detail)))
    for count, what in ((crowds, "crowd annotations"), (without, "images without an annotation")):
        if count:
            _log.warning("%s: %d %s are left out", printable(path), count, what)
    return records


def _fields(
    image: Mapping[str, Any],
    annotations: list[Mapping[str, Any]],
    category_names: Mapping[Any, Any],
    crowded: Collection[Any],
) -> dict[str, Any]:
    """Return one image in the published form of region lines.

    Args:
        crowded: categories of which the image has a crowd, so that they are not absent.
    """
    fields: dict[str, Any] = {"image": image["file_name"], "image_id": image["id"]}
    fields |= {name: image[name] for name in _SIZE if image.get(name) is not None}
    captions: list[Any] = []
    elems: list[dict[str, Any]] = []
    caption: Any = image.get("caption")
    if isinstance(caption, str) and any("tokens_positive" in one for one in annotations):
        captions.append(caption)
    for annotation in annotations:
        if "bbox" not in annotation:
            captions.append(annotation.get("caption"))
        elif "tokens_positive" in annotation:
            elems.append({"caption": _span(caption, annotation["tokens_positive"]), "bb": annotation["bbox"]})
        elif "caption" in annotation:
            elems.append({"caption": annotation["caption"], "bb": annotation["bbox"]})
        else:
            category = annotation.get("category_id")
            # An unknown category id becomes the text itself: it is not a string, so the element is bad.
            name = category_names.get(category if is_id(category) else None, category)
            elems.append({"caption": name, "bb": annotation["bbox"]})
    if captions:
        fields["caption"] = captions
    if elems:
        fields["elems"] = elems
        if absent := _absent(image, annotations, category_names, crowded):
            fields["absent"] = absent
    return fields


def _span(caption: Any, tokens_positive: Any) -> Any:
    """Return the described part of a caption; what cannot be one becomes an object, which is no text."""
    try:
        parts = [caption[start:end] for start, end in tokens_positive]
    except (TypeError, ValueError):
        return {"tokens_positive": tokens_positive}
    return " ".join(part for part in parts if isinstance(part, str))


def _absent(
    image: Mapping[str, Any],
    annotations: list[Mapping[str, Any]],
    category_names: Mapping[Any, Any],
    crowded: Collection[Any],
) -> list[str]:
    """Return the names of the categories that an image is known not to show."""
    shown = {one["category_id"] for one in annotations if is_id(one.get("category_id"))}
    negative = image.get("neg_category_ids")
    if isinstance(negative, list):
        absent = [one for one in negative if is_id(one)]
    else:
        absent = list(category_names) if shown else []
    names = [category_names.get(one) for one in absent if one not in shown and one not in crowded]
    shown_names = [category_names.get(one) for one in shown]
    return [name for name in names if isinstance(name, str) and name not in shown_names]


def is_image(value: Any) -> bool:
    """Return whether a value is an image of the form: an object with an id and the name of a file."""
    return isinstance(value, Mapping) and is_id(value.get("id")) and isinstance(value.get("file_name"), str)


def is_id(value: Any) -> bool:
    """Return whether a value may be the id of an image or a category."""
    return isinstance(value, int | str) and not isinstance(value, bool)
