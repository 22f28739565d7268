"""Convert COCO's form, one object with `images`, `annotations` and optionally `categories`, to record fields.

An image with all its annotations is one record: captions of the whole image (`caption`), regions (`bbox`,
with the name of the category as text), or both in one annotation (a caption of a box).  In MDETR's form an
image has a caption, and an annotation the characters of it that describe a box (`tokens_positive`).

COCO's annotations are exhaustive, which its average precision relies on: a category of the file without an
annotation in an image is absent from it.  An image of LVIS names those that are (`neg_category_ids`).  In
other files of this form nobody may have looked for every category in every image.

An annotation with a segmentation and no box gets the box around it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from xvlm.common.errors import InputError, printable
from xvlm.common.short_repr import short_repr
from xvlm.data.sources.segmentation import box_of_segmentation
from xvlm.records import BadRecord, normalize_id

_log = logging.getLogger(__name__)
_SIZE = ("width", "height")
_NO_ID, _REPEATED = "annotation without an image's id", "repeated id of an image"
CROWD, NO_BOX, NO_ANNOTATION = "crowd annotation", "annotation without box", "image without annotation"
_IN_LOG = {
    CROWD: "crowd annotations",
    NO_BOX: "annotations without a box",
    NO_ANNOTATION: "images without an annotation",
}
LeftOut = dict[str, list[BadRecord]]
"""What is left out and is no record, by id of the image (`normalize_id`); what has no such id is under ""."""


def is_coco(value: Any) -> bool:
    """Return whether a JSON value has COCO's form: a list of images that have an id."""
    images = value.get("images") if isinstance(value, Mapping) else None
    return (
        isinstance(images, list)
        and isinstance(value.get("annotations", []), list)
        and any(isinstance(image, Mapping) and "id" in image for image in images)
    )


def coco_fields(
    value: Mapping[str, Any], path: str, exhaustive: bool = True, left_out: LeftOut | None = None
) -> list[tuple[str, Any]]:
    """Return (key, fields) of every image that has an annotation, in the order of `images`.

    The fields have the published form of region lines.  If the file has no annotations at all, as for a test
    set, every image is a record.  Crowd annotations are left out, since one box covers several objects, and
    so are annotations without a box.

    Args:
        exhaustive: a category without an annotation in an image is absent from it; else those alone that the
            image names.
        left_out: receives what is left out; without it, that is counted in the log.
    Returns:
        (key, `BadRecord`) for an image that cannot be read, and for each image that annotations name and
        `images` lacks.
    Raises:
        InputError: a list is missing; without `left_out`, also if two images have the same id, or an
            annotation is not an object with an `image_id`.
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
    found = _LeftOut(path, {} if left_out is None else left_out, is_strict=left_out is None)
    annotations_of, crowded = _by_image(value.get("annotations", ()), found)
    images = _without_repeated([one for one in value["images"] if is_image(one)], found)
    records: list[tuple[str, Any]] = []
    for number, image in enumerate(value["images"]):
        key = f"{path}[{number}]"
        if not is_image(image):
            detail = f"image is {short_repr(image)}, expected an object with id and file_name"
            records.append((key, BadRecord("wrong type", key, detail)))
            continue
        image_id = normalize_id(image["id"])
        if images[image_id] is not image:
            continue
        annotations = annotations_of.get(image_id, [])
        fields = _fields(image, annotations, category_names, crowded.get(image_id, set()), exhaustive)
        if fields.keys() & {"caption", "elems", "absent"} or not value.get("annotations"):
            records.append((f"{path}, image {short_repr(image['id'])}", fields))
        else:
            found.add(NO_ANNOTATION, image["id"])
    for image_id, annotations in annotations_of.items():
        if image_id not in images:
            key = f"{path}, image {image_id if image_id.isdigit() else short_repr(image_id)}"
            detail = f"{len(annotations)} annotations refer to it"
            records.append((key, BadRecord("image is not in images", key, detail)))
    if left_out is None:
        found.log()
    return records


@dataclass(frozen=True)
class _LeftOut:
    """What of a file is left out.

    Attributes:
        by_image: see `LeftOut`.
        is_strict: damage is an error.
    """

    path: str
    by_image: LeftOut
    is_strict: bool

    def add(self, reason: str, image_id: Any = None, detail: str = "") -> None:
        if self.is_strict and reason not in _IN_LOG:
            raise InputError(f"{self.path}: {detail}")
        key = self.path if image_id is None else f"{self.path}, image {short_repr(image_id)}"
        name = "" if image_id is None else normalize_id(image_id)
        self.by_image.setdefault(name, []).append(BadRecord(reason, key, detail))

    def log(self) -> None:
        counts = Counter(one.reason for some in self.by_image.values() for one in some)
        for reason, what in _IN_LOG.items():
            if counts[reason]:
                _log.warning("%s: %d %s are left out", printable(self.path), counts[reason], what)


def _by_image(
    annotations: Iterable[Any], left_out: _LeftOut
) -> tuple[dict[str, list[Mapping[str, Any]]], dict[str, set[Any]]]:
    """Return usable annotations by image, and the categories that an image shows and no box has.

    An annotation has a box, made from its segmentation if need be, unless it is a caption.
    """
    of_image: dict[str, list[Mapping[str, Any]]] = {}
    unboxed: dict[str, set[Any]] = {}
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping) or not is_id(annotation.get("image_id")):
            what = f"annotation {number} is {short_repr(annotation)}, expected an object with an image_id"
            left_out.add(_NO_ID, detail=what)
            continue
        image_id, category = annotation["image_id"], annotation.get("category_id")
        box = None if _is_caption(annotation) else _box(annotation)
        if annotation.get("iscrowd") or (box is None and not _is_caption(annotation)):
            what = f"annotation {short_repr(annotation.get('id'))} of category {short_repr(category)}"
            left_out.add(CROWD if annotation.get("iscrowd") else NO_BOX, image_id, what)
            if is_id(category):
                unboxed.setdefault(normalize_id(image_id), set()).add(category)
            continue
        usable = annotation if box is None else {**annotation, "bbox": box}
        of_image.setdefault(normalize_id(image_id), []).append(usable)
    return of_image, unboxed


def _is_caption(annotation: Mapping[str, Any]) -> bool:
    """Return whether an annotation describes the whole image."""
    if "bbox" in annotation or "segmentation" in annotation:
        return False
    return "caption" in annotation or not annotation.keys() & {"category_id", "tokens_positive"}


def _box(annotation: Mapping[str, Any]) -> Any:
    """Return the box of an annotation, or that around its segmentation; `None` if it has neither."""
    box = annotation.get("bbox")
    is_empty = box is None or box == [] or box == [0, 0, 0, 0]
    return box_of_segmentation(annotation.get("segmentation")) if is_empty else box


def _without_repeated(images: list[Mapping[str, Any]], left_out: _LeftOut) -> dict[str, Mapping[str, Any]]:
    """Return images by id: the first of those that name one file; none if they name several."""
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for image in images:
        by_id.setdefault(normalize_id(image["id"]), []).append(image)
    found: dict[str, Mapping[str, Any]] = {}
    for image_id, same in by_id.items():
        files = {image["file_name"] for image in same}
        found[image_id] = same[0] if len(files) == 1 else {}
        for image in same[len(files) == 1 :]:
            left_out.add(
                _REPEATED,
                image["id"],
                f"two images have the id {short_repr(image['id'])}; one is {short_repr(image['file_name'])}",
            )
    return found


def _fields(
    image: Mapping[str, Any],
    annotations: list[Mapping[str, Any]],
    category_names: Mapping[Any, Any],
    unboxed: Collection[Any],
    exhaustive: bool,
) -> dict[str, Any]:
    """Return one image in the published form of region lines.

    Args:
        unboxed: categories that the image shows, and no box has, so that they are not absent.
        exhaustive: see `coco_fields`.
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
        if absent := _absent(image, annotations, category_names, unboxed, exhaustive):
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
    unboxed: Collection[Any],
    exhaustive: bool,
) -> list[str]:
    """Return the names of the categories that an image is known not to show."""
    shown = {one["category_id"] for one in annotations if is_id(one.get("category_id"))}
    negative = image.get("neg_category_ids")
    if isinstance(negative, list):
        absent = [one for one in negative if is_id(one)]
    else:
        absent = list(category_names) if shown and exhaustive else []
    names = [category_names.get(one) for one in absent if one not in shown and one not in unboxed]
    shown_names = [category_names.get(one) for one in shown]
    return [name for name in names if isinstance(name, str) and name not in shown_names]


def is_image(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value is an image of the form: an object with an id and the name of a file."""
    return isinstance(value, Mapping) and is_id(value.get("id")) and isinstance(value.get("file_name"), str)


def is_id(value: Any) -> bool:
    """Return whether a value may be the id of an image or a category."""
    return isinstance(value, int | str) and not isinstance(value, bool)
