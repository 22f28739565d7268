"""What an evaluation leaves behind: its numbers, every prediction with what it belongs to, and a page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xvlm.errors import OutputError
from xvlm.lock import locked_by_main
from xvlm.lookup import find, names
from xvlm.outputs import check_writable
from xvlm.report import Metric, Table, write_report
from xvlm.report.items import Section
from xvlm.run import json_text, write_json, write_text
from xvlm.whole import whole_file

WRITTEN = ("metrics.json", "predictions.json", "submission.json", "skipped.jsonl", "report.html")
MADE_BY = "Made by: xvlm "
"""How a page tells an evaluation's folder from somebody's."""


@contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """Looked at before hours of measuring: results can be written to `out`, and only this process does.

    Results of an earlier evaluation are replaced; it is known by its page, which is written first.

    Raises OutputError for a folder that holds a run, or files of such names that no evaluation wrote.
    """
    check_writable(out)
    of_run = [
        name
        for name in ("run.json", "log.jsonl", "checkpoints", "model.safetensors")
        if (out / name).exists()
    ]
    if of_run:
        raise OutputError(
            f"{out} holds a run or a model ({', '.join(of_run)}), whose report and numbers "
            f"are not overwritten; name a folder of its own, such as {out / 'results'}"
        )
    there = [name for name in WRITTEN if os.path.lexists(out / name)]
    if there == ["skipped.jsonl"] and _is_list_of_skipped(out / "skipped.jsonl"):
        there = []  # of an evaluation that was refused for it
    if there and not _is_ours(out / "report.html"):
        raise OutputError(
            f"{out} holds {', '.join(there)} that no evaluation of xvlm wrote; name another folder"
        )
    with locked_by_main(out):
        yield


def _is_ours(page: Path) -> bool:
    try:
        return page.is_file() and MADE_BY in page.read_text(errors="replace")
    except OSError:
        return False


def _is_list_of_skipped(path: Path) -> bool:
    with path.open(errors="replace") as file:
        first = file.readline(10_000)
    return first.startswith('{"reason": ') or not first


def write_results(out: Path, measure: str, metrics: Mapping[str, float], found: Any, command: str) -> Path:
    """Write `metrics.json`, `predictions.json`, `report.html`, and `submission.json` where the measure's file
    has a `submission`; return the page.  Where one cannot be written, all stay as they were.

    Args:
        measure: name of a file in `evaluate`; a page shows more than numbers where `gallery` has one too.
        found: what `evaluate` returned beside the metrics.
        command: that made it, for the page.
    """
    with ExitStack() as files:  # they take their places in reverse: the page first
        write_json(files.enter_context(whole_file(out / "metrics.json")), dict(metrics))
        write_predictions(files.enter_context(whole_file(out / "predictions.json")), found)
        submission = getattr(find("evaluate", measure), "submission", None)
        if submission:
            write_json(files.enter_context(whole_file(out / "submission.json")), submission(found))
        write_page(files.enter_context(whole_file(out / "report.html")), measure, metrics, found, command)
    return out / "report.html"


def write_page(path: Path, measure: str, metrics: Mapping[str, float], found: Any, command: str) -> None:
    """`report.html` of an evaluation; see `write_results`."""
    page = find("gallery", measure) if measure.replace("-", "_") in names("gallery") else None
    told = getattr(page, "told", percent)
    write_report(
        path,
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
