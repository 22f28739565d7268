"""What a run is measured by while it trains, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.data.probe import check_images
from xvlm.data.refcoco import read_detections
from xvlm.data.sources import open_source
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.evaluate.vqa import answer_list
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.model.folder import Loaded
from xvlm.predict import Predictor

Evaluation = Callable[[Loaded], dict[str, float]]
"""What a run is measured by while it trains."""


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
        detections: file of candidate boxes for a model without a box head, see `read_detections`; empty: the
            boxes of the image's own phrases.
    """

    retrieval: str = ""
    grounding: str = ""
    image_root: str = ""
    limit: int = 1000
    top: int = 16
    detections: str = ""


def measured_zero_shot(dev: DevConfig) -> Evaluation | None:
    """What a run asks to be measured while it trains; `None` where it asks for nothing.

    Raises MissingFileError or InputError, before anything is trained, for a source that cannot be opened.
    """
    limit, root = dev.limit or None, dev.image_root or None
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

    def measure(loaded: Loaded) -> dict[str, float]:
        predictor = Predictor(loaded)
        found = {}
        if grounding and "box" in predictor.model.config.parts:
            found = evaluate_grounding(predictor, grounding, limit)[0]
        elif grounding:
            found = evaluate_maps(predictor, grounding, limit, detections=detections)[0]
        ranked = evaluate_retrieval(predictor, retrieval, limit, dev.top)[0] if retrieval else {}
        return found | ranked

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
    limit: int = 0
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

    def numbers(loaded: Loaded) -> dict[str, float]:
        return measure(Predictor(loaded), source, limit=dev.limit or None, **options)[0]

    return numbers
