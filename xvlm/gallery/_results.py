"""What an evaluation leaves behind: its numbers, every prediction with what it belongs to, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm.lookup import find, names
from xvlm.report import Metric, Table, write_report
from xvlm.report.items import Section
from xvlm.run import json_text, write_json, write_text


def write_results(out: Path, measure: str, metrics: Mapping[str, float], found: Any, command: str) -> Path:
    """Write `metrics.json`, `predictions.json`, `report.html`, and `submission.json` where the measure's file
    has a `submission`; return the page.

    Args:
        measure: name of a file in `evaluate`; a page shows more than numbers where `gallery` has one too.
        found: what `evaluate` returned beside the metrics.
        command: that made it, for the page.
    """
    write_json(out / "metrics.json", dict(metrics))
    write_predictions(out / "predictions.json", found)
    submission = getattr(find("evaluate", measure), "submission", None)
    if submission:
        write_json(out / "submission.json", submission(found))
    page = find("gallery", measure) if measure.replace("-", "_") in names("gallery") else None
    told = getattr(page, "told", percent)
    return write_report(
        out / "report.html",
        f"xvlm: {measure.replace('_', ' ')}",
        [
            Metric(label, told(metrics[name]))
            for name, label in (page.TILES if page else {}).items()
            if name in metrics
        ],
        sections=[
            *(page.sections(found) if page else ()),
            Section("All numbers", "", [Table(("number", "value"), list(metrics.items()))]),
        ],
        notes=[f"Made by: {command}"],
    )


def percent(share: float) -> str:
    """How a page tells a share; a file of `gallery` may have a `told` of its own."""
    return f"{100 * share:.1f} %"


def write_predictions(path: Path, found: Any) -> None:
    """Predictions as JSON, one a line; ranked lists as they are."""
    if isinstance(found, list):
        lines = ",\n".join(json_text(one.to_json()) for one in found)
        write_text(path, f"[\n{lines}\n]\n")
    else:
        write_text(path, json_text(found.to_json()) + "\n")
