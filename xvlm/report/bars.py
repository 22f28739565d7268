"""Bars that compare a few variants by a few metrics, as one SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xvlm.errors import InputError
from xvlm.report.svg import SERIES, column, svg_document, text

_WIDTH = 360.0
_ROW, _GAP, _HEADING, _LETTER = 20.0, 14.0, 24.0, 6.6


@dataclass(frozen=True)
class Bars:
    """Metrics of several variants on one scale.

    Attributes:
        title: what is compared.
        groups: the metrics' names.
        series: one value for each group by the variant's name; at least 0, NaN for one that was not measured.
        unit: written after each value.
    """

    title: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[float]]
    unit: str = ""

    def __post_init__(self) -> None:
        for name, values in self.series.items():
            if len(values) != len(self.groups):
                raise InputError(f"bars of {name!r}: {len(values)} values for {len(self.groups)} groups")
            if any(value < 0 for value in values):
                raise InputError(f"bars of {name!r}: values start at 0, found {min(values)}")


def bars_svg(bars: Bars) -> str:
    """Horizontal bars, one block for each metric: names and values stay readable on a phone."""
    known = [value for _, values in bars.series.items() for value in values if math.isfinite(value)]
    every = column([value for _, values in bars.series.items() for value in values])
    words = [every[row * len(bars.groups) :][: len(bars.groups)] for row in range(len(bars.series))]
    longest = max(known, default=0.0) or 1.0
    left = 14 + min(max((len(name) for name, _ in bars.series.items()), default=0) * _LETTER + 8, 130)
    room = _WIDTH - left - 14 - _LETTER * (5 + len(bars.unit))
    body = [text(14, 20, bars.title, "v-ink v-title")]
    y = 34.0
    for index, group in enumerate(bars.groups):
        y += _HEADING
        body.append(text(14, y - 8, group, "v-ink"))
        # the best is set in bold; where all are equal there is none
        rivals = [values[index] for _, values in bars.series.items() if math.isfinite(values[index])]
        best = max(rivals) if len(set(rivals)) > 1 else math.inf
        for row, (name, values) in enumerate(bars.series.items()):
            value = values[index]
            width = max(room * value / longest, 1.5) if math.isfinite(value) else 0.0
            body.append(text(left - 8, y + 14, name, anchor="end"))
            body.append(
                f'<rect class="v-f{row % SERIES}" x="{left:.1f}" y="{y + 4:.1f}" width="{width:.1f}" '
                f'height="{_ROW - 6:g}" rx="3"/>'
            )
            shown = words[row][index] + (bars.unit if math.isfinite(value) else "")
            kind = "v-ink v-title" if value == best else "v-ink"
            body.append(text(left + width + 6, y + 15, shown, kind))
            y += _ROW
        y += _GAP
    label = (
        bars.title
        + ": "
        + "; ".join(
            f"{name} "
            + ", ".join(f"{group} {word}" for group, word in zip(bars.groups, row_words, strict=True))
            for (name, _), row_words in zip(bars.series.items(), words, strict=True)
        )
    )
    return svg_document(body, _WIDTH, y, label)
