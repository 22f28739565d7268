"""Boxes x, y, w, h around shapes that annotation tools draw."""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]
Box = list[float]


def box_around(points: Iterable[Point]) -> Box:
    """Return the box around points.  Raises ValueError if there are none."""
    x, y = zip(*points, strict=True)
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def rotated_box(box: Box, degrees: float, centre: Point | None = None) -> Box:
    """Return the box around a box that is rotated clockwise, by default around its own centre."""
    x, y, w, h = box
    cx, cy = centre or (x + w / 2, y + h / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x - cx, y - cy), (x + w - cx, y - cy), (x - cx, y + h - cy), (x + w - cx, y + h - cy))
    return box_around((cx + dx * cos - dy * sin, cy + dx * sin + dy * cos) for dx, dy in corners)


def ellipse_box(centre: Point, radii: Point, degrees: float) -> Box:
    """Return the box around an ellipse that is rotated around its centre."""
    (cx, cy), (rx, ry) = centre, radii
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return [cx - half_width, cy - half_height, 2 * half_width, 2 * half_height]
