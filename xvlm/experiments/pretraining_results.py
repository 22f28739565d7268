"""Evaluation of a pretrained model by grounding and retrieval, with a report of both and of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.data.sources.source import Source
from xvlm.evaluation import detection, grounding, retrieval
from xvlm.evaluation.common.measure import Measure
from xvlm.evaluation.common.results import write_results
from xvlm.evaluation.detection import DetectionPrediction
from xvlm.evaluation.grounding import GroundingPrediction
from xvlm.evaluation.retrieval_result import RetrievalResult
from xvlm.inference.model import InferenceModel
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.reports import Section, curves_from_log, read_log
from xvlm.training.checkpoint import TrainingState

RESULT_FILES = ("metrics.json", "predictions.json", "report.html")
LABELS = {
    "grounding_acc50": "phrases found (box overlap at least one half)",
    "grounding_acc50_heldout": "phrases found, unseen combinations",
    **retrieval.HEADLINE,
    **detection.HEADLINE,
}
"""Labels of the metrics at the top of the report."""
LOSSES = {
    "loss": "all losses",
    "itc": "contrastive, images",
    "region_itc": "contrastive, regions",
    "phrases": "contrastive, phrases of captions",
    "itm": "matching, images",
    "region_itm": "matching, regions",
    "mlm": "masked words, images",
    "region_mlm": "masked words, regions",
    "bbox": "box, L1",
    "giou": "box, 1 - GIoU",
    "presence": "presence of what a text describes",
    "objectness": "centres of what a text describes",
    "found_giou": "boxes found, 1 - GIoU",
}
"""Titles of the training curves in the report."""


@dataclass(frozen=True)
class PretrainingPredictions:
    """The predictions of `evaluate_pretrained`.

    Attributes:
        examples: grounding predictions from which the report shows some; by default those of `grounding`.
        detection: predictions of texts with several targets, one or none; empty if they were not evaluated.
    """

    grounding: list[GroundingPrediction]
    retrieval: RetrievalResult
    examples: Sequence[GroundingPrediction] = ()
    detection: Sequence[DetectionPrediction] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the predictions as plain values."""
        return {
            "grounding": [prediction.to_json() for prediction in self.grounding],
            "retrieval": self.retrieval.to_json(),
            "detection": [prediction.to_json() for prediction in self.detection],
        }


def evaluate_pretrained(
    bundle: ModelBundle,
    state: TrainingState,
    phrases: Source,
    captions: Source,
    retrieval_options: Mapping[str, Any] | None = None,
    wanted: Source | None = None,
) -> tuple[dict[str, float], PretrainingPredictions]:
    """Evaluate grounding, retrieval and perhaps detection; the metrics include the cost of training.

    Args:
        bundle, state: result of `train`.
        phrases, captions: data of grounding and of retrieval.
        retrieval_options: options of `evaluate_retrieval`; by default its own.
        wanted: texts with several targets, one or none; `None` leaves detection out.
    """
    predictor = InferenceModel(bundle)
    grounding_metrics, boxes = grounding.evaluate_grounding(predictor, phrases)
    retrieval_metrics, ranked = retrieval.evaluate_retrieval(predictor, captions, **(retrieval_options or {}))
    metrics = grounding_metrics | retrieval_metrics
    found: Sequence[DetectionPrediction] = ()
    if wanted is not None:
        detection_metrics, found = detection.evaluate_detection(predictor, wanted)
        metrics |= detection_metrics
    cost = {"train_seconds": state.seconds, "train_steps": float(state.step)}
    return metrics | cost, PretrainingPredictions(boxes, ranked, detection=found)


def write_pretraining_results(
    out: Path,
    name: str,
    metrics: Mapping[str, float],
    predictions: PretrainingPredictions,
    command: str,
    lead: str,
    targets: Mapping[str, float],
) -> Path:
    """Write the results into a run's folder, and return the path of the report; see `write_results`."""

    def sections(predictions: PretrainingPredictions) -> list[Section]:
        curves = curves_from_log(read_log(out / "log.jsonl"), LOSSES)
        return [
            *grounding.MEASURE.sections(predictions.examples or predictions.grounding),
            *(detection.MEASURE.sections(predictions.detection) if predictions.detection else ()),
            *retrieval.MEASURE.sections(predictions.retrieval),
            Section("Training", "Raw values are faint, smoothed values are bold.", curves),
        ]

    measure = Measure(evaluate_pretrained, LABELS, sections)
    return write_results(out, name, measure, metrics, predictions, command, lead=lead, targets=targets)
