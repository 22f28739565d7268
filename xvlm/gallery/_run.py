"""A pre-training run as a page: what the model finds and ranks, curves and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xvlm.evaluate.grounding import GroundingPrediction
from xvlm.evaluate.retrieval import Retrieval
from xvlm.gallery.grounding import grounding_examples
from xvlm.gallery.retrieval import image_rankings, text_rankings
from xvlm.report import Curve, Metric, curves_from_log, read_log, write_report

LOSSES = {
    "loss": "all losses",
    "itc": "contrastive, images",
    "region_itc": "contrastive, regions",
    "itm": "matching, images",
    "region_itm": "matching, regions",
    "mlm": "masked words, images",
    "region_mlm": "masked words, regions",
    "bbox": "box, L1",
    "giou": "box, 1 - GIoU",
}


def loss_curves(log: Path) -> list[Curve]:
    """The losses of a run's `log.jsonl`."""
    rows = read_log(log)
    present = {name for row in rows if "event" not in row for name in row}
    return curves_from_log(rows, {name: title for name, title in LOSSES.items() if name in present})


def write_gallery(
    path: Path,
    title: str,
    lead: str,
    summary: Sequence[Metric],
    metrics: Mapping[str, float],
    grounding: Sequence[GroundingPrediction],
    retrieval: Retrieval | None,
    log: Path | None,
    notes: Sequence[str] = (),
) -> Path:
    """`report.html` of a run: numbers, answers, curves."""
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return write_report(
        path,
        title,
        summary,
        loss_curves(log) if log else (),
        grounding_examples(grounding, 24),
        text_rankings(retrieval, 6) if retrieval else (),
        image_rankings(retrieval, 6) if retrieval else (),
        [*notes, f"All numbers: {numbers}."],
        lead=lead,
    )
