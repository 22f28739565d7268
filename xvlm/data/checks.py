"""Which concepts of a record can be used, once the size of its image is known.

One bad box among many does not lose the image: bad concepts are reported, the rest is used.
"""

from __future__ import annotations

import math
from dataclasses import replace

from xvlm.data.images import Opened, turn_box
from xvlm.records import BadRecord, BoxXYXY, Concept, Record

ROUNDING_PIXELS = 1.0
ROUNDING_FRACTION = 0.01
_MIN_SIDE = 1.0 - 1e-3  # one pixel, less the rounding of files that hold fractions


def usable_concepts(record: Record, opened: Opened) -> tuple[list[Concept], list[BadRecord]]:
    """The concepts with their boxes checked and on the upright image, and why the others are left out.

    Boxes are taken to lie on the upright image, unless the record declares (in `extra`) a width and
    height that fit only the image without its EXIF rotation: then they are turned with it.  A
    half-turn or mirroring keeps the size and cannot be told so.

    Raises:
        BadRecord: none of the record's concepts is left, or the declared size fits neither way, so
            that no box could be trusted.
    """
    turned = _boxes_are_on_the_stored_image(record, opened)
    usable, bad = [], []
    for concept in record.concepts:
        try:
            usable.append(_check_concept(concept, opened, turned, record.key))
        except BadRecord as error:
            bad.append(error)
    if bad and not usable:
        detail = f"nothing left; first of {len(bad)} bad concepts: {bad[0].detail}"
        raise BadRecord(bad[0].reason, record.key, detail)
    return usable, bad


def check_box(box_xyxy: BoxXYXY, width: int, height: int, key: str) -> BoxXYXY:
    """The box, clipped to the image where it passes its edge by rounding only.

    Rounding is up to 1 pixel or 1 % of that side of the image, whichever is more.  (The published code
    drops the whole record when a box passes an edge at all.)

    Raises:
        BadRecord: "box is not finite", "box is empty" (less than a pixel wide or high), "box outside
            the image" (wholly, or by more than rounding).
    """
    found = f"box {tuple(box_xyxy)} in an image of {width} x {height}"
    x0, y0, x1, y1 = box_xyxy
    if not all(map(math.isfinite, box_xyxy)):
        raise BadRecord("box is not finite", key, found)
    if x1 - x0 < _MIN_SIDE or y1 - y0 < _MIN_SIDE:
        raise BadRecord("box is empty", key, found)
    slack_x, slack_y = (max(ROUNDING_PIXELS, ROUNDING_FRACTION * side) for side in (width, height))
    if x0 < -slack_x or y0 < -slack_y or x1 > width + slack_x or y1 > height + slack_y:
        raise BadRecord("box outside the image", key, found)
    x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    if x1 - x0 < _MIN_SIDE or y1 - y0 < _MIN_SIDE:
        raise BadRecord("box outside the image", key, found)
    return x0, y0, x1, y1


def _check_concept(concept: Concept, opened: Opened, turned: bool, key: str) -> Concept:
    texts = tuple(text for text in concept.texts if text.strip())
    if not texts:
        raise BadRecord("no text left", key, f"texts {concept.texts!r}")
    if concept.box_xyxy is None:
        return replace(concept, texts=texts)
    width, height = opened.stored_size if turned else (opened.width, opened.height)
    box = check_box(concept.box_xyxy, width, height, key)
    if turned:
        box = turn_box(box, width, height, opened.orientation)
    return replace(concept, texts=texts, box_xyxy=box)


def _boxes_are_on_the_stored_image(record: Record, opened: Opened) -> bool:
    declared = record.extra.get("width"), record.extra.get("height")
    if declared == (None, None) or all(concept.box_xyxy is None for concept in record.concepts):
        return False
    if declared == (opened.width, opened.height):
        return False
    if declared == opened.stored_size:
        return True
    found = f"declared {declared[0]} x {declared[1]}, the image is {opened.width} x {opened.height}"
    raise BadRecord("declared size is not the image's", record.key, found)
