"""Training curves: from the run's JSONL log to small SVG drawings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xvlm.errors import InputError
from xvlm.report.svg import SERIES, number, svg_document, text, tick_labels, ticks

_WIDTH, _HEIGHT = 360.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 14.0, 34.0, 26.0
_MOST_POINTS = 300
# what the training log holds beside losses
_BOOKKEEPING = {"lr", "grad_norm", "seconds", "images_per_s", "data_share", "epoch"}


@dataclass(frozen=True)
class Curve:
    """One logged quantity over the steps of a run.

    Attributes:
        name: what it is, as a reader should see it.
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
    """The rows of a JSONL log.  A last line without its newline is one still being written: it is left out.

    Raises:
        InputError: another line that is not a JSON object; the message names file and line.
    """
    content = Path(path).read_text(encoding="utf-8")
    complete = content[: content.rfind("\n") + 1]
    rows = []
    for number_, line in enumerate(complete.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number_}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number_}: a JSON object was expected, found {type(row).__name__}"
            )
        rows.append(row)
    return rows


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, value) of every number in a row, NaN for null; nested names are joined with `/`."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
        elif value is None:  # how JSON says that a number was not finite
            yield f"{prefix}{key}", math.nan


def curves_from_log(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str] | Mapping[str, str] | None = None
) -> list[Curve]:
    """Curves by name from rows that hold a `step`.

    Where a step stands twice (a resumed run repeats some), the later row counts.  The numbers of a row that
    holds an `event` (an evaluation) are named `<event>/<name>`, as in TensorBoard.

    Args:
        names: which quantities, in this order; a mapping also says what to call each.  `None` takes every
            loss of the training steps: all but the learning rate, times and the like.
    Raises:
        InputError: a name that no row has; the message lists what there is.
    """
    found: dict[str, dict[int, float]] = {}
    events: set[str] = set()
    for row in rows:
        if "step" not in row:
            continue
        prefix = (
            f"{row['event']}/" if "event" in row else ""
        )  # an evaluation is no part of the training curve
        for name, value in _numbers(row, prefix):
            found.setdefault(name, {})[int(row["step"])] = value
            if prefix:
                events.add(name)
    if names is None:
        names = [name for name in found if name not in _BOOKKEEPING | events]
    shown = names if isinstance(names, Mapping) else {name: name for name in names}
    curves = []
    for name, title in shown.items():
        if name not in found:
            raise InputError(f"the log has no {name!r}: there is {', '.join(sorted(found)) or 'nothing'}")
        points = sorted(found[name].items())
        curves.append(Curve(title, [step for step, _ in points], [value for _, value in points]))
    return curves


def smooth(values: np.ndarray) -> np.ndarray:
    """(n,) values -> (n,) centred means over about a twentieth of the curve; gaps stay gaps.

    Centred, so that the smooth line does not lag behind the raw one.
    """
    window = len(values) // 20 * 2 + 1
    kernel = np.hanning(window + 2)[1:-1]
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel, "full")
    weight = np.convolve(finite.astype(float), kernel, "full")
    middle = slice(window // 2, window // 2 + len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, total[middle] / weight[middle], np.nan)


def _thin(values: np.ndarray) -> np.ndarray:
    """Indices of at most `_MOST_POINTS` points: the extremes of each stretch, so that no spike is lost."""
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), _MOST_POINTS // 2 - 1):
        known = stretch[np.isfinite(values[stretch])]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        if len(known) < len(stretch):
            kept.add(int(stretch[~np.isfinite(values[stretch])][0]))
    return np.array(sorted(kept))


def _path(x: np.ndarray, y: np.ndarray, kind: str) -> str:
    """A line through (n,) points; it breaks where y is not finite."""
    parts, pen_down = [], False
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(py):
            parts.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = math.isfinite(py)
    return f'<path class="{kind}" d="{"".join(parts)}"/>' if parts else ""


def curve_svg(curve: Curve, colour: int = 0) -> str:
    """One curve: the raw values faint, their smoothed course over them, the last value in words."""
    steps, values = np.asarray(curve.steps, dtype=float), np.asarray(curve.values, dtype=float)
    known = values[np.isfinite(values)]
    body = [text(_LEFT - 34, 20, curve.name, "v-ink v-title")]
    if not len(known):
        body.append(text(_WIDTH / 2, _HEIGHT / 2, "no finite value", anchor="middle"))
        return svg_document(body, _WIDTH, _HEIGHT, f"{curve.name}: no finite value")
    course = smooth(values)
    last = float(course[np.isfinite(course)][-1])
    body.append(text(_WIDTH - _RIGHT, 20, number(last), f"v-f{colour % SERIES} v-title", "end"))

    y_ticks = ticks(float(known.min()), float(known.max()))
    low_step, high_step = float(steps[0]), float(steps[-1])
    across = _WIDTH - _LEFT - _RIGHT

    def to_x(step: np.ndarray) -> np.ndarray:
        return _LEFT + across * (step - low_step) / max(high_step - low_step, 1)

    def to_y(value: np.ndarray) -> np.ndarray:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    for tick, tick_label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = float(to_y(np.array(tick)))
        body.append(
            f'<line class="v-grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        body.append(text(_LEFT - 7, y + 4, tick_label, anchor="end"))
    body.append(text(_LEFT, _HEIGHT - 7, f"step {number(low_step)}"))
    body.append(text(_WIDTH - _RIGHT, _HEIGHT - 7, number(high_step), anchor="end"))

    raw, drawn = _thin(values), _thin(course)
    if len(values) >= 20:
        body.append(_path(to_x(steps[raw]), to_y(values[raw]), f"v-raw v-s{colour % SERIES}"))
    body.append(_path(to_x(steps[drawn]), to_y(course[drawn]), f"v-line v-s{colour % SERIES}"))
    at = np.flatnonzero(np.isfinite(course))[-1]
    body.append(
        f'<circle class="v-f{colour % SERIES}" r="3.5" '
        f'cx="{float(to_x(steps[at])):.1f}" cy="{float(to_y(course[at])):.1f}"/>'
    )
    label = f"{curve.name}: from {number(float(known[0]))} to {number(last)} at step {number(high_step)}"
    return svg_document(body, _WIDTH, _HEIGHT, label)
