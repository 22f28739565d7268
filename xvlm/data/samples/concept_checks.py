"""Checks of a record's concepts, once the size of its image is known.

One bad box among many does not lose the image: bad concepts are reported and the others are used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from xvlm.common.short_repr import short_repr
from xvlm.data.images.decode import ImageFile, orient_box
from xvlm.records import BadRecord, BoxXYXY, Concept, Note, Record

BOX_REASONS = ("box is empty", "box outside the image")
"""Reasons of bad records that boxes in another convention would have."""
CLIPPED = "box clipped"
_MIN_INSIDE = 0.5
_ROUNDING_PIXELS = 1.0
_ROUNDING_FRACTION = 0.01
_NEARLY_ALL = 0.9
_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?)"
_BOX_IN_IMAGE = re.compile(rf"box \({', '.join([_NUMBER] * 4)}\) in an image of (\d+) x (\d+)")
_MIN_SIDE = 1.0 - 1e-3  # one pixel, less the rounding of files that store fractions


def usable_concepts(
    record: Record, image: ImageFile, notes: list[Note] | None = None
) -> tuple[list[Concept], list[BadRecord]]:
    """Return the usable concepts of a record, and the reasons why others are left out.

    Boxes are clipped to the upright image.  They are taken to refer to it, unless the record declares (in
    `extra`) a width and height that fit only the image without its EXIF rotation: then they are rotated with
    the image.  Half-turns and flips keep the size and cannot be detected in this way.

    Args:
        notes: receives a `Note` for every box that is clipped.
    Raises:
        BadRecord: no concept is left, or the declared size fits neither way, so that no box can be trusted.
    """
    is_stored = _refers_to_stored_image(record, image)
    usable: list[Concept] = []
    bad = list(record.bad)
    for concept in record.concepts:
        try:
            usable.append(_check_concept(concept, image, is_stored, record.key, notes))
        except BadRecord as error:
            bad.append(error)
    if bad and not usable:
        if len(bad) == 1:
            raise bad[0]
        detail = f"nothing left; first of {len(bad)} bad concepts: {bad[0].detail}"
        raise BadRecord(bad[0].reason, record.key, detail)
    return usable, bad


def clip_box(
    box_xyxy: BoxXYXY, width: int, height: int, key: str, notes: list[Note] | None = None
) -> BoxXYXY:
    """Clip a box to its image.  (The published code drops the whole record instead.)

    Args:
        notes: receives a `Note` if the box extends beyond the image by more than rounding: 1 pixel or 1 % of
            that side of the image, whichever is larger.
    Raises:
        BadRecord: "box is not finite", "box is empty" (less than a pixel wide or high), "box outside the
            image" (less than half of its area is inside).
    """
    detail = f"box {tuple(box_xyxy)} in an image of {width} x {height}"
    x0, y0, x1, y1 = box_xyxy
    if not all(map(math.isfinite, box_xyxy)):
        raise BadRecord("box is not finite", key, detail)
    if x1 - x0 < _MIN_SIDE or y1 - y0 < _MIN_SIDE:
        raise BadRecord("box is empty", key, detail)
    clipped = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    new_width, new_height = clipped[2] - clipped[0], clipped[3] - clipped[1]
    # Fractions of the sides are multiplied, because the area of a hostile box may be infinite.
    inside = new_width / (x1 - x0) * (new_height / (y1 - y0))
    if new_width < _MIN_SIDE or new_height < _MIN_SIDE or inside < _MIN_INSIDE:
        raise BadRecord("box outside the image", key, detail)
    slack_x, slack_y = (max(_ROUNDING_PIXELS, _ROUNDING_FRACTION * side) for side in (width, height))
    is_noted = x0 < -slack_x or y0 < -slack_y or x1 > width + slack_x or y1 > height + slack_y
    if notes is not None and is_noted:
        notes.append(Note(CLIPPED, key, detail))
    return clipped


def hint_at_xyxy(bad: Iterable[BadRecord | Note]) -> str:
    """Return a hint if nearly all unusable or clipped boxes would be usable as two corners, else "".

    Boxes are read as x, y, width, height, but some files hold x0, y0, x1, y1.

    Args:
        bad: bad records and notes of one file or run, with any reasons.
    """
    return corners_hint(*count_corners(bad))


def count_corners(found: Iterable[BadRecord | Note]) -> tuple[int, int]:
    """Return how many boxes that were left out or clipped would be usable as two corners, and of how many.

    Args:
        found: what was left out or changed, with any reasons.
    """
    results = [_is_usable_as_corners(one) for one in found if one.reason in (*BOX_REASONS, CLIPPED)]
    known = [result for result in results if result is not None]
    return sum(known), len(known)


def corners_hint(corners: int, boxes: int) -> str:
    """Return a hint if nearly all of these boxes would be usable as two corners, else an empty text."""
    if not boxes or corners < _NEARLY_ALL * boxes:
        return ""
    return (
        f"{corners} of these {boxes} boxes would lie in their images if they were two corners "
        "x0, y0, x1, y1; boxes are read as x, y, width, height"
    )


def _is_usable_as_corners(bad: BadRecord | Note) -> bool | None:
    """Return whether a bad box would be usable if read as two corners; `None` if its numbers are unknown."""
    match = _BOX_IN_IMAGE.search(bad.detail)
    if match is None:
        return None
    x0, y0, right, bottom, width, height = map(float, match.groups())
    try:
        clip_box((x0, y0, right - x0, bottom - y0), int(width), int(height), bad.key)
    except BadRecord:
        return False
    return True


def _check_concept(
    concept: Concept, image: ImageFile, is_stored: bool, key: str, notes: list[Note] | None
) -> Concept:
    texts = tuple(text for text in concept.texts if text.strip())
    if not texts:
        raise BadRecord("no text left", key, f"texts {short_repr(concept.texts)}")
    if concept.box_xyxy is None:
        return replace(concept, texts=texts)
    width, height = image.stored_size if is_stored else (image.width, image.height)

    def upright(box_xyxy: BoxXYXY) -> BoxXYXY:
        box = clip_box(box_xyxy, width, height, key, notes)
        return orient_box(box, width, height, image.orientation) if is_stored else box

    instances = tuple(map(upright, concept.instances_xyxy))
    return replace(concept, texts=texts, box_xyxy=upright(concept.box_xyxy), instances_xyxy=instances)


def _refers_to_stored_image(record: Record, image: ImageFile) -> bool:
    declared = record.extra.get("width"), record.extra.get("height")
    has_boxes = any(concept.box_xyxy is not None for concept in record.concepts)
    if not has_boxes or declared in ((None, None), (image.width, image.height)):
        return False
    if declared == image.stored_size:
        return True
    size = " x ".join(map(short_repr, declared))
    detail = f"declared {size}, the image is {image.width} x {image.height}"
    raise BadRecord("declared size is not the image's", record.key, detail)
