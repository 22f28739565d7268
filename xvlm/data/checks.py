"""Which concepts of a record can be used, once the size of its image is known.

One bad box among many does not lose the image: bad concepts are reported, the rest is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from xvlm.data.images import Opened, turn_box
from xvlm.data.short_repr import short_repr
from xvlm.records import BadRecord, BoxXYXY, Concept, Note, Record

LEAST_INSIDE = 0.5
"""Share of a box's area that has to lie in the image."""
CLIPPED = "box clipped"
"""Reason of the note about a box that sticks out of its image."""
BOX_REASONS = ("box is empty", "box outside the image")
"""Reasons of bad records that boxes in another convention would have."""
ROUNDING_PIXELS = 1.0
ROUNDING_FRACTION = 0.01
_NEARLY_ALL = 0.9
_NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?)"
_BOX_IN_IMAGE = re.compile(rf"box \({', '.join([_NUMBER] * 4)}\) in an image of (\d+) x (\d+)")
_MIN_SIDE = 1.0 - 1e-3  # one pixel, less the rounding of files that hold fractions


def usable_concepts(
    record: Record, opened: Opened, notes: list[Note] | None = None
) -> tuple[list[Concept], list[BadRecord]]:
    """The concepts with their boxes checked and on the upright image, and why the others are left out.

    Boxes are taken to lie on the upright image, unless the record declares (in `extra`) a width and
    height that fit only the image without its EXIF rotation: then they are turned with it.  A
    half-turn or mirroring keeps the size and cannot be told so.

    Args:
        notes: takes a `Note` for every box that was clipped.
    Raises:
        BadRecord: none of the record's concepts is left, or the declared size fits neither way, so
            that no box could be trusted.
    """
    turned = _boxes_are_on_the_stored_image(record, opened)
    usable: list[Concept] = []
    bad = list(record.bad)
    for concept in record.concepts:
        try:
            usable.append(_check_concept(concept, opened, turned, record.key, notes))
        except BadRecord as error:
            bad.append(error)
    if bad and not usable:
        if len(bad) == 1:
            raise bad[0]
        detail = f"nothing left; first of {len(bad)} bad concepts: {bad[0].detail}"
        raise BadRecord(bad[0].reason, record.key, detail)
    return usable, bad


def check_box(
    box_xyxy: BoxXYXY, width: int, height: int, key: str, notes: list[Note] | None = None
) -> BoxXYXY:
    """The box, clipped to the image where it sticks out.  (The published code drops the whole record.)

    Args:
        notes: takes a `Note` if it sticks out by more than rounding: 1 pixel or 1 % of that side of the
            image, whichever is more.
    Raises:
        BadRecord: "box is not finite", "box is empty" (less than a pixel wide or high), "box outside
            the image" (less than `LEAST_INSIDE` of its area lies within).
    """
    found = f"box {tuple(box_xyxy)} in an image of {width} x {height}"
    x0, y0, x1, y1 = box_xyxy
    if not all(map(math.isfinite, box_xyxy)):
        raise BadRecord("box is not finite", key, found)
    if x1 - x0 < _MIN_SIDE or y1 - y0 < _MIN_SIDE:
        raise BadRecord("box is empty", key, found)
    inside = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    new_width, new_height = inside[2] - inside[0], inside[3] - inside[1]
    # shares of the sides, since the area of a hostile box may be infinite
    share = new_width / (x1 - x0) * (new_height / (y1 - y0))
    if new_width < _MIN_SIDE or new_height < _MIN_SIDE or share < LEAST_INSIDE:
        raise BadRecord("box outside the image", key, found)
    slack_x, slack_y = (max(ROUNDING_PIXELS, ROUNDING_FRACTION * side) for side in (width, height))
    if notes is not None and (
        x0 < -slack_x or y0 < -slack_y or x1 > width + slack_x or y1 > height + slack_y
    ):
        notes.append(Note(CLIPPED, key, found))
    return inside


def hint_at_xyxy(bad: Iterable[BadRecord]) -> str:
    """A sentence if nearly all boxes that cannot be used lie within their images once they are read as two
    corners (x0, y0, x1, y1) instead of x, y, width, height; else nothing.

    Args:
        bad: of one file or run, whatever their reasons.
    """
    as_corners = [_as_corners_inside(one) for one in bad if one.reason in BOX_REASONS]
    known = [inside for inside in as_corners if inside is not None]
    if not known or sum(known) < _NEARLY_ALL * len(known):
        return ""
    return (
        f"{sum(known)} of these {len(known)} boxes would lie in their images if they were two corners "
        "x0, y0, x1, y1; boxes are read as x, y, width, height"
    )


def _as_corners_inside(bad: BadRecord) -> bool | None:
    """Whether a bad box would be a good one if it had been corners; `None` if its numbers are not known."""
    found = _BOX_IN_IMAGE.search(bad.detail)
    if found is None:
        return None
    x0, y0, right, bottom, width, height = map(float, found.groups())
    try:
        check_box((x0, y0, right - x0, bottom - y0), int(width), int(height), bad.key)
    except BadRecord:
        return False
    return True


def _check_concept(
    concept: Concept, opened: Opened, turned: bool, key: str, notes: list[Note] | None
) -> Concept:
    texts = tuple(text for text in concept.texts if text.strip())
    if not texts:
        raise BadRecord("no text left", key, f"texts {short_repr(concept.texts)}")
    if concept.box_xyxy is None:
        return replace(concept, texts=texts)
    width, height = opened.stored_size if turned else (opened.width, opened.height)
    box = check_box(concept.box_xyxy, width, height, key, notes)
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
    said = " x ".join(map(short_repr, declared))
    found = f"declared {said}, the image is {opened.width} x {opened.height}"
    raise BadRecord("declared size is not the image's", record.key, found)
