"""Reliability diagram: the share of cases that are true, for cases of similar probability, as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.metrics.presence import Reliability
from xvlm.reports.svg import svg_document, text

_SIDE, _LEFT, _TOP, _BELOW = 260.0, 44.0, 34.0, 38.0


@dataclass(frozen=True)
class ReliabilityDiagram:
    """The reliability of some probabilities.

    Attributes:
        title: what is probable.
        reliability: what share of the cases is true.
    """

    title: str
    reliability: Reliability


def reliability_svg(diagram: ReliabilityDiagram) -> str:
    """Draw a bar for each interval of probability; a bar that ends on the diagonal is right."""
    one = diagram.reliability
    buckets = len(one.counts)
    width = _SIDE / buckets
    bottom, most = _TOP + _SIDE, max(one.counts) or 1
    body = [text(10, 20, diagram.title, "v-ink v-title")]
    for tick in (0.0, 0.5, 1.0):
        y = bottom - tick * _SIDE
        body.append(f'<line class="v-grid" x1="{_LEFT}" x2="{_LEFT + _SIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(text(_LEFT - 7, y + 4, f"{100 * tick:.0f} %", anchor="end"))
        anchor = "end" if tick == 1 else "middle"  # the last one would stick out
        body.append(text(_LEFT + tick * _SIDE, bottom + 16, f"{100 * tick:.0f} %", anchor=anchor))
    for place, (count, share) in enumerate(zip(one.counts, one.shares, strict=True)):
        if count:
            # Faint bars are of few cases.
            opacity = 0.35 + 0.65 * (count / most) ** 0.5
            body.append(
                f'<rect class="v-f0" x="{_LEFT + place * width + 1:.1f}" y="{bottom - share * _SIDE:.1f}" '
                f'width="{width - 2:.1f}" height="{max(share * _SIDE, 1.5):.1f}" opacity="{opacity:.2f}"/>'
            )
    body.append(f'<path class="v-whisker" d="M{_LEFT} {bottom}L{_LEFT + _SIDE} {_TOP}"/>')
    body.append(text(_LEFT + _SIDE / 2, bottom + 32, "predicted probability", anchor="middle"))
    error = f"expected calibration error {one.error:.3f}"
    body.append(text(_LEFT + 8, _TOP + 18, f"error {one.error:.3f}", "v-ink"))
    total = sum(one.counts)
    return svg_document(body, _LEFT + _SIDE + 16, bottom + _BELOW, f"{diagram.title}: {error}, {total} cases")
