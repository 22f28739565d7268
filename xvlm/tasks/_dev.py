"""What a run is measured by while it trains, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm import dist
from xvlm.data.probe import check_images
from xvlm.data.refcoco import read_detections
from xvlm.data.sources import open_source
from xvlm.evaluate._skipped import Skipped
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import Rerank, check_rerank, evaluate_retrieval
from xvlm.evaluate.vqa import answer_list
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.model.folder import Loaded
from xvlm.predict import Predictor
from xvlm.ranges import NonNegativeInt
from xvlm.terminal import notice

Evaluation = Callable[[Loaded], dict[str, float]]
"""What a run is measured by while it trains.  One with an option `limit` can measure a few records only."""


@dataclass(frozen=True)
class DevConfig:
    """What `xvlm train` measures, every `eval_every` steps and at the end.

    Attributes:
        retrieval: file or scheme of images with captions; empty: none.
        grounding: the same of phrases with a box each; a model without a box head chooses among them by what
            it looks at.
        image_root: where their image paths start; empty: beside the file.
        limit: records of each; 0 takes all.
        top: candidates that are reranked by matching for every query; 0: contrastive scores alone.
        rerank: what they are ordered by, see `evaluate_retrieval`.
        detections: file of candidate boxes for a model without a box head, see `read_detections`; empty: the
            boxes of the image's own phrases.
    """

    retrieval: str = ""
    grounding: str = ""
    image_root: str = ""
    limit: NonNegativeInt = 1000
    top: NonNegativeInt = 16
    rerank: Rerank = "both"
    detections: str = ""


def measured_zero_shot(dev: DevConfig) -> Evaluation | None:
    """What a run asks to be measured while it trains; `None` where it asks for nothing.

    Raises MissingFileError or InputError, before anything is trained, for a source that cannot be opened.
    """
    check_rerank(dev.rerank)
    records, root = dev.limit or None, dev.image_root or None
    grounding = open_source(dev.grounding, root) if dev.grounding else None
    retrieval = open_source(dev.retrieval, root) if dev.retrieval else None
    if grounding is None and retrieval is None:
        return None
    for source in (grounding, retrieval):
        if source is not None:
            check_images(source)
    detections = Path(dev.detections) if dev.detections else None
    if detections:
        read_detections(detections)

    def measure(loaded: Loaded, limit: int | None = records) -> dict[str, float]:
        predictor = Predictor(loaded)
        found: dict[str, float] = {}
        skipped = Skipped()
        if grounding and "box" in predictor.model.config.parts:
            found = evaluate_grounding(predictor, grounding, limit, skipped=skipped)[0]
        elif grounding:
            found = evaluate_maps(predictor, grounding, limit, detections=detections, skipped=skipped)[0]
        tell(skipped, dev.grounding)
        skipped = Skipped()
        if retrieval:
            found |= evaluate_retrieval(predictor, retrieval, limit, dev.top, dev.rerank, skipped=skipped)[0]
        tell(skipped, dev.retrieval)
        return found

    return measure


@dataclass(frozen=True)
class FinetuneDev:
    """What `xvlm train` measures, every `eval_every` steps and at the end.

    Attributes:
        data: file or scheme, in the published form of the task's file; empty: nothing.
        image_root: where its image paths start; empty: beside the file.
        limit: records; 0 takes all.
        answers: of questions: a JSON list of the answers to choose among; empty: they are written freely.
    """

    data: str = ""
    image_root: str = ""
    limit: NonNegativeInt = 0
    answers: str = ""


Measure = Callable[..., tuple[dict[str, float], Any]]
"""(predictor, source, limit=, ...) -> metrics and predictions; see `xvlm/evaluate`."""


def measured(dev: FinetuneDev, measure: Measure) -> Evaluation | None:
    """What a run asks to be measured by `measure`; `None` where it asks for nothing.

    Raises MissingFileError or InputError, before anything is trained, for files that cannot be used.
    """
    if not dev.data:
        return None
    source = open_source(dev.data, dev.image_root or None)
    check_images(source)
    options = {"answers": answer_list(Path(dev.answers))} if dev.answers else {}

    def numbers(loaded: Loaded, limit: int | None = dev.limit or None) -> dict[str, float]:
        skipped = Skipped()
        found = measure(Predictor(loaded), source, limit=limit, **options, skipped=skipped)[0]
        tell(skipped, dev.data)
        return found

    return numbers


def tell(skipped: Skipped, data: str) -> None:
    """Say on the main rank what of the data was not measured, and why."""
    if dist.is_main():
        for line in skipped.lines():
            notice(f"{data}: {line}")
