"""Boxes around rotated shapes, compared with many points of their outline."""

from __future__ import annotations

import math

import pytest

from xvlm.prepare.shapes import box_around, ellipse_box, rotated_box


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 270, -45])
def test_the_box_around_a_rotated_ellipse_touches_it(degrees: float) -> None:
    angle, rx, ry = math.radians(degrees), 40, 5
    outline = []
    for step in range(3600):
        x, y = rx * math.cos(step / 3600 * math.tau), ry * math.sin(step / 3600 * math.tau)
        outline.append(
            (100 + x * math.cos(angle) - y * math.sin(angle), 50 + x * math.sin(angle) + y * math.cos(angle))
        )
    assert ellipse_box((100, 50), (rx, ry), degrees) == pytest.approx(box_around(outline), abs=0.01)


def test_a_box_rotated_by_90_degrees() -> None:
    assert rotated_box([10, 20, 40, 10], 90) == pytest.approx([25, 5, 10, 40])
    assert rotated_box([10, 20, 40, 10], 90, (10, 20)) == pytest.approx([0, 20, 10, 40])
