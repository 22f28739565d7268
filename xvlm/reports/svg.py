"""Shared parts of the SVG charts: palettes for light and dark mode, text, numbers and ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from string import Template

LIGHT = {
    "paper": "#ffffff", "page": "#f6f7f9", "ink": "#1d2330", "muted": "#667085", "line": "#e3e6eb",
    "good": "#1f8a5b", "bad": "#c2453d",
    "c0": "#3b6fb6", "c1": "#d9822b", "c2": "#2f9270", "c3": "#8661b3", "c4": "#c0504d", "c5": "#2b93a8",
}  # fmt: skip
DARK = {
    "paper": "#191d24", "page": "#111419", "ink": "#e8eaef", "muted": "#98a2b3", "line": "#2c323c",
    "good": "#4cc38a", "bad": "#f0776c",
    "c0": "#7aa7e6", "c1": "#eba55b", "c2": "#5fc39d", "c3": "#b596de", "c4": "#e58a86", "c5": "#66c4d6",
}  # fmt: skip
SERIES = 6
"""Number of series colours, `c0` to `c5`."""

# Plain colours, because some viewers of stand-alone SVG files do not support custom properties.
_RULES = Template(
    ".v-bg{fill:$paper}.v-ink{fill:$ink}.v-muted{fill:$muted}.v-grid{stroke:$line}"
    ".v-whisker{stroke:$ink;fill:none}"
    + "".join(f".v-f{i}{{fill:$c{i}}}.v-s{i}{{stroke:$c{i}}}" for i in range(SERIES))
)
_FONT = (
    "svg.v{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-size:12px}"
    ".v-title{font-weight:600;font-size:13px}.v-line{fill:none;stroke-width:2;stroke-linejoin:round;"
    "stroke-linecap:round}.v-raw{fill:none;stroke-width:1;opacity:.28}.v-grid{stroke-width:1}"
)


def svg_css() -> str:
    """Return the style of every chart, for light and dark mode."""
    return (
        _FONT + _RULES.substitute(LIGHT)
        + "@media (prefers-color-scheme:dark){" + _RULES.substitute(DARK) + "}"
    )  # fmt: skip


def svg_document(body: list[str], width: float, height: float, label: str) -> str:
    """Return an `<svg>` element that scales to the available width; `label` is for screen readers."""
    return (
        f'<svg class="v" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(label)}">' + "".join(body) + "</svg>"
    )


def standalone_svg(svg: str) -> str:
    """Add a style and a background to a chart that is written to its own file."""
    head, body = svg.split(">", 1)
    return f'{head}><style>{svg_css()}</style><rect class="v-bg" width="100%" height="100%" rx="8"/>{body}\n'


def text(x: float, y: float, content: str, css_class: str = "v-muted", anchor: str = "start") -> str:
    """Return a line of text with its baseline at (x, y)."""
    return (
        f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def format_number(value: float) -> str:
    """Format a number with three significant digits and thousands separators; "–" if it is not finite."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def format_column(values: Sequence[float]) -> list[str]:
    """Format the numbers of a column with the same number of decimals: about three digits for the largest."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    integers = all(float(value).is_integer() for value in finite)
    largest = max(finite, default=0.0)
    decimals = 0 if integers or largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3
    return [f"{value:,.{decimals}f}" if math.isfinite(value) else "–" for value in values]


def ticks(low: float, high: float, num_steps: int = 4) -> list[float]:
    """Return round numbers (multiples of 1, 2, 2.5 or 5 times a power of ten) that cover [low, high]."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-12):  # flat within rounding
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    target = (high - low) / num_steps
    power = 10.0 ** math.floor(math.log10(target))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= target * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Format evenly spaced numbers with the fewest decimals that show their differences."""
    step = values[1] - values[0]
    for decimals in range(7):
        if all(abs(round(value, decimals) - value) < step / 100 for value in values):
            return [f"{value:,.{decimals}f}" for value in values]
    return [f"{value:.2e}" for value in values]
