"""Bar chart that compares variants by several metrics, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xvlm.common.errors import InputError
from xvlm.reports.svg import SERIES, format_column, svg_document, text

_WIDTH, _MAX_LABEL = 360.0, 200.0
_ROW, _GAP, _HEADING, _LETTER = 20.0, 14.0, 24.0, 6.6


@dataclass(frozen=True)
class Bars:
    """Metrics of several variants on one scale.

    Attributes:
        title: title of the chart.
        groups: names of the metrics.
        series: one value for each group, by name of the variant; at least 0, or NaN if not measured.
        unit: appended to each value.
        deviations: standard deviation of each value, drawn as a line on both sides of the bar's end; NaN or a
            variant that is not in it draws none.
    """

    title: str
    groups: Sequence[str]
    series: Mapping[str, Sequence[float]]
    unit: str = ""
    deviations: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.series.items():
            if len(values) != len(self.groups):
                raise InputError(f"bars of {name!r}: {len(values)} values for {len(self.groups)} groups")
            if name in self.deviations and len(self.deviations[name]) != len(self.groups):
                raise InputError(
                    f"bars of {name!r}: {len(self.deviations[name])} deviations for {len(self.groups)} groups"
                )
            if any(value < 0 for value in values):
                raise InputError(f"bars of {name!r}: values start at 0, found {min(values)}")


def bars_svg(bars: Bars) -> str:
    """Draw horizontal bars, one block for each metric; the text stays readable on a phone."""
    values = [value for row in bars.series.values() for value in row]
    labels = format_column(values)
    row_labels = [labels[row * len(bars.groups) :][: len(bars.groups)] for row in range(len(bars.series))]
    reaches = [
        value + deviation
        for name, row in bars.series.items()
        for value, deviation in zip(row, bars.deviations.get(name, row), strict=True)
        if name in bars.deviations
    ]
    largest = max((value for value in (*values, *reaches) if math.isfinite(value)), default=0.0) or 1.0
    left = 14 + min(max((len(name) for name in bars.series), default=0) * _LETTER + 8, _MAX_LABEL)
    max_width = _WIDTH - left - 14 - _LETTER * (5 + len(bars.unit))
    body = [text(14, 20, bars.title, "v-ink v-title")]
    y = 34.0
    for index, group in enumerate(bars.groups):
        y += _HEADING
        body.append(text(14, y - 8, group, "v-ink"))
        # The best value is bold, unless all are equal.
        measured = [row[index] for row in bars.series.values() if math.isfinite(row[index])]
        best = max(measured) if len(set(measured)) > 1 else math.inf
        for row, (name, row_values) in enumerate(bars.series.items()):
            value = row_values[index]
            width = max(max_width * value / largest, 1.5) if math.isfinite(value) else 0.0
            body.append(text(left - 8, y + 14, name, anchor="end"))
            body.append(
                f'<rect class="v-f{row % SERIES}" x="{left:.1f}" y="{y + 4:.1f}" width="{width:.1f}" '
                f'height="{_ROW - 6:g}" rx="3"/>'
            )
            label = row_labels[row][index] + (bars.unit if math.isfinite(value) else "")
            css_class = "v-ink v-title" if value == best else "v-ink"
            deviation = bars.deviations[name][index] if name in bars.deviations else math.nan
            reach = max_width * deviation / largest if math.isfinite(deviation) else 0.0
            if reach:
                low, high, middle = left + max(width - reach, 0.0), left + width + reach, y + 1 + _ROW / 2
                body.append(
                    f'<path class="v-whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
                    f'M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"/>'
                )
            body.append(text(left + width + reach + 6, y + 15, label, css_class))
            y += _ROW
        y += _GAP
    rows = (
        f"{name} " + ", ".join(f"{group} {label}" for group, label in zip(bars.groups, labels, strict=True))
        for name, labels in zip(bars.series, row_labels, strict=True)
    )
    return svg_document(body, _WIDTH, y, f"{bars.title}: {'; '.join(rows)}")
