"""Result files of an evaluation: metrics, predictions, a report, and perhaps a submission."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xvlm.common.atomic import atomic_file
from xvlm.common.errors import OutputError
from xvlm.common.json_file import json_text, write_json, write_text
from xvlm.common.outputs import check_writable
from xvlm.distributed import folder_lock_on_main
from xvlm.evaluation.common.measure import Measure
from xvlm.reports import Metric, Table, write_report
from xvlm.reports.items import Section

EVALUATION_FILE = "evaluation.json"
"""Task, command and metrics, which the card of a model shows."""
RESULT_FILES = (
    "metrics.json",
    "predictions.json",
    "submission.json",
    "skipped.jsonl",
    EVALUATION_FILE,
    "report.html",
)
MADE_BY = "Made by: xvlm "
"""Text in a report that marks its folder as one of an evaluation."""


@contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """Check that results can be written to a folder, before hours of evaluation, and lock it meanwhile.

    Results of an earlier evaluation may be replaced; they are recognised by their report.

    Raises:
        OutputError: the folder holds a run, or result files that no evaluation wrote.
    """
    check_writable(out)
    run_files = [
        name
        for name in ("run.json", "log.jsonl", "checkpoints", "model.safetensors")
        if (out / name).exists()
    ]
    if run_files:
        raise OutputError(
            f"{out} holds a run or a model ({', '.join(run_files)}), whose report and metrics "
            f"are not overwritten; name a folder of its own, such as {out / 'results'}"
        )
    existing = [name for name in RESULT_FILES if os.path.lexists(out / name)]
    if existing == ["skipped.jsonl"] and _is_skipped_list(out / "skipped.jsonl"):
        existing = []  # an evaluation stopped because too many samples were skipped
    if existing and not _is_report(out / "report.html"):
        raise OutputError(
            f"{out} holds {', '.join(existing)} that no evaluation of xvlm wrote; name another folder"
        )
    with folder_lock_on_main(out):
        yield


def _is_report(path: Path) -> bool:
    try:
        return path.is_file() and MADE_BY in path.read_text(errors="replace")
    except OSError:
        return False


def _is_skipped_list(path: Path) -> bool:
    with path.open(errors="replace") as file:
        first = file.readline(10_000)
    return first.startswith('{"reason": ') or not first


def write_results(
    out: Path,
    name: str,
    measure: Measure,
    metrics: Mapping[str, float],
    predictions: Any,
    command: str,
    *,
    lead: str = "",
    targets: Mapping[str, float] | None = None,
) -> Path:
    """Write `metrics.json`, `evaluation.json`, `predictions.json`, `report.html`, perhaps `submission.json`.

    If one of them cannot be written, all stay as they were.

    Args:
        name: name of the task, for the title of the report.
        metrics, predictions: result of `measure.evaluate`.
        command: command line, for the report.
        lead: sentence under the title.
        targets: value that a metric was to reach, by name.
    Returns:
        the path of the report.
    """
    with ExitStack() as files:  # files are put in place in reverse order: the report first

        def open_file(name: str) -> Path:
            return files.enter_context(atomic_file(out / name))

        write_json(open_file("metrics.json"), dict(metrics))
        made = {"task": name, "command": command, "metrics": dict(metrics)}
        write_json(open_file(EVALUATION_FILE), made)
        write_predictions(open_file("predictions.json"), predictions)
        if measure.submission:
            write_json(open_file("submission.json"), measure.submission(predictions))
        rows = [(key, f"{value:.4g}") for key, value in metrics.items()]
        sections = [
            *measure.sections(predictions),
            Section("All metrics", "", [Table(("metric", "value"), rows)]),
            Section("Notes", "", [f"Made by: {command}"]),
        ]
        headline = headline_metrics(measure, metrics, targets or {})
        title = f"xvlm: {name.replace('_', ' ')}"
        write_report(open_file("report.html"), title, lead=lead, summary=headline, sections=sections)
    return out / "report.html"


def headline_metrics(
    measure: Measure, metrics: Mapping[str, float], targets: Mapping[str, float]
) -> list[Metric]:
    """Return the metrics at the top of a report, with their targets."""
    headline = []
    for name, label in measure.headline.items():
        if name in metrics:
            value, target = metrics[name], targets.get(name)
            text = None if target is None else measure.format_score(target)
            met = None if target is None else value >= target
            headline.append(Metric(label, measure.format_score(value), text, met))
    return headline


def write_predictions(path: Path, predictions: Any) -> None:
    """Write predictions as JSON: a list with one prediction in a line, or one object."""
    if isinstance(predictions, list):
        lines = ",\n".join(json_text(prediction.to_json()) for prediction in predictions)
        write_text(path, f"[\n{lines}\n]\n")
    else:
        write_text(path, json_text(predictions.to_json()) + "\n")
