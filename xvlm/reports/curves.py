"""Training curves, from the run's JSONL log to small SVG charts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xvlm.common.errors import InputError
from xvlm.reports.svg import SERIES, format_number, svg_document, text, tick_labels, ticks

_WIDTH, _HEIGHT = 360.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 14.0, 34.0, 26.0
_MAX_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """One logged quantity over the steps of a run.

    Attributes:
        name: title of the curve.
        steps: ascending optimiser steps.
        values: one for each step; a value that is not finite leaves a gap.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise InputError(f"curve {self.name!r} has {len(self.steps)} steps but {len(self.values)} values")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a JSONL log, except an unfinished last line, which has no newline yet.

    Raises:
        InputError: another line is not a JSON object; the message names file and line.
    """
    content = Path(path).read_text(encoding="utf-8")
    complete = content[: content.rfind("\n") + 1]
    rows = []
    for line_number, line in enumerate(complete.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {line_number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {line_number}: a JSON object was expected, found {type(row).__name__}"
            )
        rows.append(row)
    return rows


def curves_from_log(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> list[Curve]:
    """Return the curves of the training steps in a log.

    If a step occurs twice (a resumed run repeats some), the later row counts.  Rows of an `event`, such as an
    evaluation, are left out.

    Args:
        rows: rows of the log, see `read_log`.
        titles: title of each quantity to show, by its name in the log; those that the log lacks are left out.
    """
    points: dict[str, dict[int, float]] = {name: {} for name in titles}
    for row in rows:
        if "step" in row and "event" not in row:
            for name in titles.keys() & row.keys():
                # The log writes a number that is not finite as null.
                points[name][int(row["step"])] = math.nan if row[name] is None else float(row[name])
    curves = []
    for name, values in points.items():
        if values:
            steps = sorted(values)
            curves.append(Curve(titles[name], steps, [values[step] for step in steps]))
    return curves


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooth (n,) values by a window of about a twentieth of the curve; gaps remain gaps.

    The window is centred, so the smooth curve does not lag behind the raw one.
    """
    window = len(values) // 20 * 2 + 1
    kernel = np.hanning(window + 2)[1:-1]
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel, "full")
    weight = np.convolve(finite.astype(float), kernel, "full")
    middle = slice(window // 2, window // 2 + len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, total[middle] / weight[middle], np.nan)


def _thin_out(values: np.ndarray) -> np.ndarray:
    """Return indices of at most `_MAX_POINTS` points, which include the extremes of each stretch."""
    if len(values) <= _MAX_POINTS:
        return np.arange(len(values))
    indices = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), _MAX_POINTS // 2 - 1):
        finite = stretch[np.isfinite(values[stretch])]
        if len(finite):
            indices |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        if len(finite) < len(stretch):
            indices.add(int(stretch[~np.isfinite(values[stretch])][0]))
    return np.array(sorted(indices))


def _path(x: np.ndarray, y: np.ndarray, css_class: str) -> str:
    """Draw a line through (n,) points, with a gap where y is not finite."""
    parts, pen_down = [], False
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(py):
            parts.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = math.isfinite(py)
    return f'<path class="{css_class}" d="{"".join(parts)}"/>' if parts else ""


def curve_svg(curve: Curve, colour: int = 0) -> str:
    """Draw the raw values faint, the smoothed curve over them, and its last value as text."""
    steps, values = np.asarray(curve.steps, dtype=float), np.asarray(curve.values, dtype=float)
    finite = values[np.isfinite(values)]
    body = [text(_LEFT - 34, 20, curve.name, "v-ink v-title")]
    if not len(finite):
        body.append(text(_WIDTH / 2, _HEIGHT / 2, "no finite value", anchor="middle"))
        return svg_document(body, _WIDTH, _HEIGHT, f"{curve.name}: no finite value")
    smoothed = smooth(values)
    last_index = np.flatnonzero(np.isfinite(smoothed))[-1]
    last = format_number(float(smoothed[last_index]))
    colour %= SERIES
    body.append(text(_WIDTH - _RIGHT, 20, last, f"v-f{colour} v-title", "end"))

    y_ticks = ticks(float(finite.min()), float(finite.max()))
    first_step, last_step = float(steps[0]), float(steps[-1])
    width = _WIDTH - _LEFT - _RIGHT

    def to_x(step: np.ndarray) -> np.ndarray:
        return _LEFT + width * (step - first_step) / max(last_step - first_step, 1)

    def to_y(value: np.ndarray) -> np.ndarray:
        fraction = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * fraction

    for tick, tick_label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = float(to_y(np.array(tick)))
        body.append(
            f'<line class="v-grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        body.append(text(_LEFT - 7, y + 4, tick_label, anchor="end"))
    body.append(text(_LEFT, _HEIGHT - 7, f"step {format_number(first_step)}"))
    body.append(text(_WIDTH - _RIGHT, _HEIGHT - 7, format_number(last_step), anchor="end"))

    if len(values) >= 20:
        raw = _thin_out(values)
        body.append(_path(to_x(steps[raw]), to_y(values[raw]), f"v-raw v-s{colour}"))
    shown = _thin_out(smoothed)
    body.append(_path(to_x(steps[shown]), to_y(smoothed[shown]), f"v-line v-s{colour}"))
    body.append(
        f'<circle class="v-f{colour}" r="3.5" '
        f'cx="{float(to_x(steps[last_index])):.1f}" cy="{float(to_y(smoothed[last_index])):.1f}"/>'
    )
    first = format_number(float(finite[0]))
    label = f"{curve.name}: from {first} to {last} at step {format_number(last_step)}"
    return svg_document(body, _WIDTH, _HEIGHT, label)
