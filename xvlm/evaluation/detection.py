"""Detection: everything that a text describes in an image, or nothing, with probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xvlm.boxes import area, iou, surrounding_box
from xvlm.common.ranges import PositiveInt, Probability, checked
from xvlm.data.images.decode import ImageFile
from xvlm.data.sources.source import Source
from xvlm.evaluation.common.measure import Measure, Prediction, example_sections
from xvlm.evaluation.common.queries import Query, QueryBatch
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.detection import FoundBoxes, find_boxes
from xvlm.inference.model import InferenceModel
from xvlm.metrics.detection import (
    CategoryBoxes,
    Outcome,
    average_precision,
    first_hits,
    grefcoco_metrics,
    match_boxes,
    recall_metrics,
)
from xvlm.metrics.grounding import IOU_THRESHOLD
from xvlm.metrics.presence import Reliability, auroc, reliability
from xvlm.models.calibration import THRESHOLD
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BoxXYXY, Record
from xvlm.reports import DetectionExample, ReliabilityDiagram, Section
from xvlm.reports.pictures import load_picture

SMALL = 0.05
"""Share of the image below which a box counts as small."""


@dataclass(frozen=True)
class Wanted:
    """A text, and everything that it describes in an image; boxes are in pixels of the upright image.

    Attributes:
        targets_xyxy: empty if it describes nothing.
        kind: kind of the phrase, if the record tells it.
        rivals_xyxy: boxes of things that it could be confused with, if the record tells them.
        image_area: area of the image in pixels.
    """

    text: str
    targets_xyxy: tuple[BoxXYXY, ...]
    kind: str
    rivals_xyxy: tuple[BoxXYXY, ...]
    image_area: int


@dataclass(frozen=True)
class DetectionPrediction(Prediction):
    """What was found for a text.

    Attributes:
        wanted: the text and its targets.
        presence: probability that the text describes anything in the image.
        presence_log_odds: the same before calibration.
        found_xyxy: boxes in pixels, the most probable first, whatever their probability.
        probabilities, log_odds: of each box; the latter before calibration.
        threshold: smallest probability of a box that counts as found.
    """

    wanted: Wanted
    presence: float
    presence_log_odds: float
    found_xyxy: tuple[BoxXYXY, ...]
    probabilities: tuple[float, ...]
    log_odds: tuple[float, ...]
    threshold: float

    @property
    def chosen_xyxy(self) -> tuple[BoxXYXY, ...]:
        """The boxes whose probability reaches the threshold."""
        pairs = zip(self.found_xyxy, self.probabilities, strict=True)
        return tuple(box for box, probability in pairs if probability >= self.threshold)

    def outcome(self) -> Outcome:
        """Return how the chosen boxes fit the targets; an answer that is no number counts as a wrong box."""
        targets = self.wanted.targets_xyxy
        if math.isnan(self.presence_log_odds):
            return Outcome(0, 1, len(targets))
        hits = len(match_boxes(boxes_tensor(self.chosen_xyxy), boxes_tensor(targets)))
        return Outcome(hits, len(self.chosen_xyxy), len(targets))

    def are_right(self) -> list[bool]:
        """Return for each box whether it surrounds a target that no more probable one surrounds."""
        target_n4 = boxes_tensor(self.wanted.targets_xyxy)
        free = [True] * len(target_n4)
        right = []
        for box in self.found_xyxy:
            overlap_n = iou(boxes_tensor([box]), target_n4)
            overlap_n = torch.where(
                torch.tensor(free, dtype=torch.bool), overlap_n, -torch.ones_like(overlap_n)
            )
            right.append(bool(len(overlap_n)) and float(overlap_n.max()) >= IOU_THRESHOLD)
            if right[-1]:
                free[int(overlap_n.argmax())] = False
        return right

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        fields = super().to_json()
        wanted = fields.pop("wanted")
        return {**fields, **vars(wanted)}


def boxes_tensor(boxes_xyxy: Sequence[BoxXYXY]) -> Tensor:
    """Return boxes as (n, 4) float64; n may be 0."""
    return torch.tensor(boxes_xyxy, dtype=torch.float64).view(-1, 4)


@checked
def evaluate_detection(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    batch_size: PositiveInt = 32,
    threshold: Probability = THRESHOLD,
    categories: bool = False,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[DetectionPrediction]]:
    """Evaluate detection: texts with several targets, one or none.

    Boxes with an equal text in one image are the targets of that text.

    Args:
        limit: number of records; by default all.
        batch_size: images in a batch.
        threshold: smallest probability of a box that counts as found.
        categories: texts are names of categories, whose average precision is a metric too; needs the extra
            "metrics".
    Returns:
        metrics, and predictions in the order of the source.
    Raises MissingHead if the model was not trained for detection, InputError if there is no text.
    """
    samples = SampleReader(predictor, source, limit, skipped, "detection")
    indexed: list[tuple[int, DetectionPrediction]] = []
    for batch, features, texts, image_N in encode_wanted(samples, batch_size):
        found = find_boxes(predictor.model, features, texts, image_N, predictor.calibration)
        files = [batch.images[index].file for index in batch.image_index]
        rows = zip(batch.queries, files, found.by_text(), strict=True)
        for row, (query, file, boxes) in enumerate(rows):
            prediction = prediction_of(query, found, row, boxes, file, threshold)
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "text to find")
    metrics = detection_metrics(predictions)
    if categories:
        metrics["detection_ap50"] = average_precision([category_boxes(one) for one in predictions])
    return {**metrics, "detection_skipped": float(len(samples.skipped))}, predictions


EncodedWanted = tuple[QueryBatch[Wanted], ImageFeatures, TextFeatures, Tensor]


def encode_wanted(samples: SampleReader, batch_size: int) -> Iterator[EncodedWanted]:
    """Yield the texts of `batch_size` images at a time; see `SampleReader.encoded`."""
    queries = samples.queries("detection", lambda record, file: wanted_texts(samples, record, file))
    return samples.encoded(queries, lambda wanted: wanted.text, batch_size)


def wanted_texts(samples: SampleReader, record: Record, file: ImageFile) -> Iterator[Wanted]:
    """Yield each text of a record with everything that it describes, then those that describe nothing."""
    targets: dict[str, dict[BoxXYXY, None]] = {}
    for concept, text in samples.concept_texts(record, file, boxed=True):
        targets.setdefault(text, {}).update(dict.fromkeys(concept.targets_xyxy))
    kinds: Mapping[str, str] = record.extra.get("phrase_kinds", {})
    rivals: Mapping[str, Sequence[BoxXYXY]] = record.extra.get("rivals_xyxy", {})
    image_area = file.width * file.height
    for text, boxes in targets.items():
        yield Wanted(text, tuple(boxes), kinds.get(text, ""), tuple(rivals.get(text, ())), image_area)
    for text in dict.fromkeys(record.absent_texts):
        if text not in targets and samples.has_tokens(text, record.key):
            yield Wanted(text, (), kinds.get(text, ""), (), image_area)


def prediction_of(
    query: Query[Wanted],
    found: FoundBoxes,
    row: int,
    boxes: tuple[Tensor, Tensor, Tensor],
    file: ImageFile,
    threshold: float,
) -> DetectionPrediction:
    """Return what was found for the text in a row.

    Args:
        boxes: its boxes (k, 4), their probabilities (k,) and their log-odds (k,), from `by_text`.
    """
    box_k4, probability_k, log_odds_k = boxes
    size_4 = torch.tensor([file.width, file.height] * 2, dtype=torch.float64)
    return DetectionPrediction(
        query.record.key,
        query.record.image,
        query.content,
        presence=float(found.presence_N[row]),
        presence_log_odds=float(found.presence_log_odds_N[row]),
        found_xyxy=tuple(tuple(box) for box in (box_k4.double().cpu() * size_4).tolist()),
        probabilities=tuple(probability_k.tolist()),
        log_odds=tuple(log_odds_k.tolist()),
        threshold=threshold,
    )


def detection_metrics(predictions: Sequence[DetectionPrediction]) -> dict[str, float]:
    """Return the metrics of all texts, those of texts with one target, and those of presence.

    - those of `grefcoco_metrics`, and recall by `any-box` and `merged-box` (`recall_metrics`);
    - `detection_acc50`: share of the texts with one target whose most probable box fits it; also of each kind
      of phrase, and `detection_acc50_small` of targets below a twentieth of the image;
    - `detection_rival`: share of the texts with rivals whose most probable box fits one of these instead;
    - `presence_auroc`, `presence_ece`, `box_ece`: separation and calibration of the probabilities.
    """
    metrics = grefcoco_metrics([one.outcome() for one in predictions])
    some = [one for one in predictions if one.wanted.targets_xyxy]
    targets = [boxes_tensor(one.wanted.targets_xyxy) for one in some]
    candidates: dict[str, list[Sequence[BoxXYXY]]] = {
        "anybox": [one.found_xyxy for one in some],
        "mergedbox": [merged_candidates(one) for one in some],
    }
    for protocol, (name, boxes_of) in enumerate(candidates.items()):
        pairs = zip(boxes_of, targets, strict=True)
        places = [first_hits(boxes_tensor(boxes), own)[protocol] for boxes, own in pairs]
        metrics |= recall_metrics(name, places)
    single = [one for one in some if len(one.wanted.targets_xyxy) == 1]
    groups = {"detection_acc50": single}
    groups["detection_acc50_small"] = [one for one in single if relative_area(one) < SMALL]
    for kind in sorted({one.wanted.kind for one in single} - {""}):
        groups[f"detection_acc50_{kind}"] = [one for one in single if one.wanted.kind == kind]
    for name, own in groups.items():
        if own:
            metrics[name] = sum(fits_first(one, one.wanted.targets_xyxy) for one in own) / len(own)
    if rivalled := [one for one in single if one.wanted.rivals_xyxy]:
        metrics["detection_rival"] = sum(
            fits_first(one, one.wanted.rivals_xyxy) and not fits_first(one, one.wanted.targets_xyxy)
            for one in rivalled
        ) / len(rivalled)
    is_present_N = torch.tensor([bool(one.wanted.targets_xyxy) for one in predictions])
    metrics["presence_auroc"] = auroc(
        torch.tensor([one.presence_log_odds for one in predictions]), is_present_N
    )
    presence, box_reliability = reliabilities(predictions)
    metrics |= {"presence_ece": presence.error, "detection_cases": float(len(predictions))}
    return metrics | ({"box_ece": box_reliability.error} if box_reliability else {})


def fits_first(prediction: DetectionPrediction, targets_xyxy: Sequence[BoxXYXY]) -> bool:
    """Return whether the most probable box fits one of the targets."""
    first = boxes_tensor(prediction.found_xyxy[:1])
    return bool((iou(first, boxes_tensor(targets_xyxy)) >= IOU_THRESHOLD).any()) if len(first) else False


def merged_candidates(prediction: DetectionPrediction) -> list[BoxXYXY]:
    """Return the box around all that was found, followed by the single boxes."""
    chosen_k4 = boxes_tensor(prediction.chosen_xyxy)
    if len(chosen_k4) < 2:
        return list(prediction.found_xyxy)
    x0, y0, x1, y1 = surrounding_box(chosen_k4).tolist()
    return [(x0, y0, x1, y1), *prediction.found_xyxy]


def relative_area(prediction: DetectionPrediction) -> float:
    """Return the area of the first target as a share of the image."""
    wanted = prediction.wanted
    return float(area(boxes_tensor(wanted.targets_xyxy[:1]))[0]) / wanted.image_area


def reliabilities(predictions: Sequence[DetectionPrediction]) -> tuple[Reliability, Reliability | None]:
    """Return the reliability of presence, and that of boxes, if there are any.

    A presence that is NaN (weights of a failed training) counts as that of the wrong answer.
    """
    presence_N = torch.tensor([one.presence for one in predictions], dtype=torch.float64)
    is_present_N = torch.tensor([bool(one.wanted.targets_xyxy) for one in predictions])
    presence_N = torch.where(presence_N.isnan(), 1 - is_present_N.double(), presence_N)
    probability_X = torch.tensor([p for one in predictions for p in one.probabilities], dtype=torch.float64)
    is_right_X = torch.tensor([right for one in predictions for right in one.are_right()], dtype=torch.bool)
    boxes = reliability(probability_X, is_right_X) if len(probability_X) else None
    return reliability(presence_N, is_present_N), boxes


def category_boxes(prediction: DetectionPrediction) -> CategoryBoxes:
    """Return a prediction as boxes of a category."""
    scored = zip(prediction.found_xyxy, prediction.log_odds, strict=True)
    found = [(*box, score) for box, score in scored]
    wanted = prediction.wanted
    return CategoryBoxes(prediction.key, wanted.text, found, wanted.targets_xyxy)


HEADLINE = {
    "detection_f1": "texts whose boxes are all right, none missing",
    "detection_n_acc": "absent ones that find nothing",
    "anybox_r1": "first box right (any of several)",
    "presence_auroc": "area under the ROC curve of presence",
}


def sections(predictions: Sequence[DetectionPrediction]) -> list[Section]:
    """Return examples of texts, those with misses or false alarms, and the reliability of probabilities."""
    wrong = [one for one in predictions if one.outcome().f1 < 1.0]
    presence, boxes = reliabilities(predictions)
    diagrams = [ReliabilityDiagram("A text describes something here", presence)]
    if boxes:
        diagrams.append(ReliabilityDiagram("A box surrounds what its text describes", boxes))
    return [
        *example_sections(predictions, wrong, example, "What is there?", "Misses and false alarms"),
        Section("Do probabilities mean what they say?", "Bars on the line are right.", diagrams),
    ]


def example(prediction: DetectionPrediction) -> DetectionExample:
    """Show a text with its targets and what was found."""
    probabilities = prediction.probabilities[: len(prediction.chosen_xyxy)]
    return DetectionExample(
        load_picture(prediction.image),
        prediction.wanted.text,
        prediction.wanted.targets_xyxy,
        tuple(zip(prediction.chosen_xyxy, probabilities, strict=True)),
        prediction.presence,
        prediction.outcome().f1 >= 1.0,
    )


MEASURE = Measure(evaluate_detection, HEADLINE, sections)
