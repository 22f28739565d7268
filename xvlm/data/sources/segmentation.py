"""The box around a segmentation in COCO's forms: polygons, or runs of pixels (run-length encoding, RLE).

Runs go down the columns of the image, and the first one is background.  They are a list of numbers, or the
compressed text that pycocotools writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Box = list[float]


def box_of_segmentation(segmentation: Any) -> Box | None:
    """Return the box x, y, w, h around polygons or runs, or `None` if there is no such thing."""
    try:
        if isinstance(segmentation, Mapping):
            height, width = (int(side) for side in segmentation["size"])
            return _box_of_runs(_runs(segmentation["counts"]), height, width)
        return _box_of_polygons(segmentation) if isinstance(segmentation, list) else None
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _box_of_polygons(polygons: Sequence[Any]) -> Box | None:
    """Return the box around polygons, each a list x, y, x, y, ... or a list of pairs; one may stand alone."""
    numbers = np.array([number for polygon in polygons for number in _flat(polygon)], float)
    points = numbers.reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        return None
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _flat(value: Any) -> list[Any]:
    return [number for one in value for number in _flat(one)] if isinstance(value, list) else [value]


def _runs(counts: Any) -> list[int]:
    """Return the lengths of runs, also of the compressed text."""
    if not isinstance(counts, str):
        return [int(count) for count in counts]
    # Groups of 5 bits, lowest first, in characters from "0"; 32 marks that more follow, 16 in the last a
    # negative number.  From the third run on, a number is the difference to the last run of its kind.
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _box_of_runs(runs: list[int], height: int, width: int) -> Box | None:
    lengths = np.array(runs, np.int64)
    ends = lengths.cumsum()
    if min(height, width) < 1 or (lengths < 0).any() or ends[-1] != height * width:
        return None
    starts, ends = (ends - lengths)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts] - 1  # first and last pixel
    if not len(starts):
        return None
    x0, x1 = int(starts.min()) // height, int(ends.max()) // height
    y0, y1 = int((starts % height).min()), int((ends % height).max())
    if (starts // height != ends // height).any():  # the bottom of a column, and the top of the next one
        y0, y1 = 0, height - 1
    return [float(x0), float(y0), float(x1 - x0 + 1), float(y1 - y0 + 1)]
