"""Chart of measured times by size on logarithmic axes, where a power law is a straight line, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xvlm.common.errors import InputError
from xvlm.reports.svg import format_number, svg_document, text

_WIDTH, _HEIGHT = 360.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 30.0, 40.0, 30.0


@dataclass(frozen=True)
class Growth:
    """Measured times by size.

    Attributes:
        title: title of the chart.
        sizes: positive and ascending.
        seconds: positive, one for each size.
    """

    title: str
    sizes: Sequence[float]
    seconds: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.seconds) or len(self.sizes) < 2:
            raise InputError(f"{self.title}: {len(self.sizes)} sizes, {len(self.seconds)} times; at least 2")
        if min(*self.sizes, *self.seconds) <= 0:
            raise InputError(f"{self.title}: sizes and times must be positive on logarithmic axes")


def growth_svg(growth: Growth) -> str:
    """Draw the points, joined by lines, each with its size below and its time above."""
    x_N, y_N = ([math.log(value) for value in values] for values in (growth.sizes, growth.seconds))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    low, high = min(y_N), max(y_N)
    body = [text(14, 20, growth.title, "v-ink v-title")]
    points = [
        (
            _LEFT + width * (x - x_N[0]) / (x_N[-1] - x_N[0]),
            _HEIGHT - _BOTTOM - height * ((y - low) / (high - low) if high > low else 0.5),
        )
        for x, y in zip(x_N, y_N, strict=True)
    ]
    line = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    body.append(f'<line class="v-grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="184" y2="184"/>')
    body.append(f'<path class="v-line v-s0" d="{line}"/>')
    sizes, times = map(format_number, growth.sizes), [f"{format_number(s)} s" for s in growth.seconds]
    labels = []
    for (x, y), size, time in zip(points, sizes, times, strict=True):
        body.append(f'<circle class="v-f0" r="3.5" cx="{x:.1f}" cy="{y:.1f}"/>')
        body.append(text(x, y - 8, time, "v-ink", "middle"))
        body.append(text(x, _HEIGHT - 10, size, anchor="middle"))
        labels.append(f"{size}: {time}")
    return svg_document(body, _WIDTH, _HEIGHT, f"{growth.title}; {', '.join(labels)}")
