"""Evaluation during training, on validation data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm import distributed
from xvlm.common.ranges import NonNegativeInt
from xvlm.common.terminal import print_notice
from xvlm.data.sources.open import open_source
from xvlm.data.sources.probe import check_image_paths
from xvlm.data.sources.refcoco import read_detections
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.retrieval import Rerank, check_rerank, evaluate_retrieval
from xvlm.evaluation.vqa import read_answers
from xvlm.evaluation.weak_grounding import evaluate_weak_grounding
from xvlm.inference.model import InferenceModel
from xvlm.models.checkpoints.folder import ModelBundle

Evaluation = Callable[[ModelBundle], dict[str, float]]
"""Evaluates a model during training; with a parameter `limit`, on that number of records."""


@dataclass(frozen=True)
class ZeroShotValidation:
    """Data that `xvlm train` evaluates on, every `eval_every` steps and at the end.

    Attributes:
        retrieval: file or scheme of images with captions; empty: no retrieval.
        grounding: file or scheme of phrases with a box each; empty: no grounding.  A model without a box head
            selects candidate boxes by its attention (weak grounding).
        image_root: folder or URL that image paths are relative to; empty: the folder of the file.
        limit: number of records of each; 0 uses all.
        rerank_top_k: candidates of each query that are reranked by matching; 0 ranks by contrastive scores.
        rerank: score that reranked candidates are ordered by, see `evaluate_retrieval`.
        detections: file of candidate boxes for weak grounding, see `read_detections`; empty: the boxes of the
            image's own phrases.
    """

    retrieval: str = ""
    grounding: str = ""
    image_root: str = ""
    limit: NonNegativeInt = 1000
    rerank_top_k: NonNegativeInt = 16
    rerank: Rerank = "both"
    detections: str = ""


def zero_shot_validation(config: ZeroShotValidation) -> Evaluation | None:
    """Return what evaluates a model without fine-tuning; `None` if there are no data.

    Raises MissingFileError or InputError, before anything is trained, for a source that cannot be opened.
    """
    check_rerank(config.rerank)
    records, root = config.limit or None, config.image_root or None
    grounding = open_source(config.grounding, root) if config.grounding else None
    retrieval = open_source(config.retrieval, root) if config.retrieval else None
    if grounding is None and retrieval is None:
        return None
    for source in (grounding, retrieval):
        if source is not None:
            check_image_paths(source)
    detections = Path(config.detections) if config.detections else None
    if detections:
        read_detections(detections)

    def evaluate(bundle: ModelBundle, limit: int | None = records) -> dict[str, float]:
        model = InferenceModel(bundle)
        metrics: dict[str, float] = {}
        skipped = SkippedSamples()
        if grounding and "box" in model.model.config.heads:
            metrics = evaluate_grounding(model, grounding, limit, skipped=skipped)[0]
        elif grounding:
            metrics = evaluate_weak_grounding(
                model, grounding, limit, detections=detections, skipped=skipped
            )[0]
        print_skipped(skipped, config.grounding)
        skipped = SkippedSamples()
        if retrieval:
            metrics |= evaluate_retrieval(
                model, retrieval, limit, config.rerank_top_k, config.rerank, skipped=skipped
            )[0]
        print_skipped(skipped, config.retrieval)
        return metrics

    return evaluate


@dataclass(frozen=True)
class TaskValidation:
    """Data that `xvlm train` evaluates on, every `eval_every` steps and at the end.

    Attributes:
        data: file or scheme, in the published form of the task's files; empty: no evaluation.
        image_root: folder or URL that image paths are relative to; empty: the folder of the file.
        limit: number of records; 0 uses all.
        answers: for questions, file with a JSON list of candidate answers; empty: answers are generated.
    """

    data: str = ""
    image_root: str = ""
    limit: NonNegativeInt = 0
    answers: str = ""


def task_validation(
    config: TaskValidation, evaluate: Callable[..., tuple[dict[str, float], Any]]
) -> Evaluation | None:
    """Return what evaluates a model by a task's measure; `None` if there are no data.

    Args:
        evaluate: see `Measure.evaluate`.
    Raises:
        MissingFileError, InputError: a file cannot be used; raised before anything is trained.
    """
    if not config.data:
        return None
    source = open_source(config.data, config.image_root or None)
    check_image_paths(source)
    options = {"answers": read_answers(Path(config.answers))} if config.answers else {}

    def metrics_of(bundle: ModelBundle, limit: int | None = config.limit or None) -> dict[str, float]:
        skipped = SkippedSamples()
        metrics = evaluate(InferenceModel(bundle), source, limit=limit, **options, skipped=skipped)[0]
        print_skipped(skipped, config.data)
        return metrics

    return metrics_of


def print_skipped(skipped: SkippedSamples, data: str) -> None:
    """Print on the main rank which samples of a data file were skipped, and why."""
    if distributed.is_main():
        for line in skipped.lines():
            print_notice(f"{data}: {line}")
