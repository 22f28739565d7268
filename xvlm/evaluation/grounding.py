"""Grounding: overlap of the predicted box of a phrase with the annotated one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xvlm.common.ranges import PositiveInt, checked
from xvlm.data.images.decode import ImageFile
from xvlm.data.sources.source import Source
from xvlm.evaluation.common.measure import Measure, Prediction, example_sections
from xvlm.evaluation.common.queries import ImageQueries, QueryBatch
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.grounding import predict_boxes
from xvlm.inference.model import InferenceModel
from xvlm.metrics.grounding import IOU_THRESHOLD, grounding_metrics, overlaps
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BadRecord, BoxXYXY, Record
from xvlm.reports import GroundingExample, Section
from xvlm.reports.pictures import load_picture


@dataclass(frozen=True)
class GroundingPrediction(Prediction):
    """The predicted box of a phrase; boxes are in pixels of the upright image.

    Attributes:
        iou, iou_inclusive: overlap of the two boxes, plain and by inclusive pixels (`metrics/grounding.py`).
        score: probability that the phrase matches the box; `None` if the model has neither a matching nor a
            detection head.
        split, ref_id: fields of the record, if it has them.
    """

    text: str
    true_xyxy: BoxXYXY
    predicted_xyxy: BoxXYXY
    iou: float
    score: float | None
    iou_inclusive: float
    split: str
    ref_id: Any


@checked
def evaluate_grounding(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[GroundingPrediction]]:
    """Evaluate grounding; each text of each concept with a box is a phrase.

    Args:
        limit: number of records; by default all.
        batch_size: images in a batch.
    Returns:
        metrics, and predictions in the order of the source.  If records name their split, the accuracy of
        each split is a metric too (`grounding_acc50_testA`).
    Raises MissingHead if the model has no box head, InputError if there is no phrase with a box.
    """
    samples = SampleReader(predictor, source, limit, skipped, "box")
    has_score = not {"matching", "detection"}.isdisjoint(predictor.model.config.heads)
    indexed: list[tuple[int, GroundingPrediction]] = []
    for batch, features, texts, image_N in encode_phrases(samples, batch_size):
        box_N4, log_odds_N = predict_boxes(predictor.model, features, texts, image_N)
        score_N = predictor.calibration.ground.probability(log_odds_N)
        files = [batch.images[index].file for index in batch.image_index]
        size_N4 = torch.tensor([[file.width, file.height] * 2 for file in files], dtype=torch.float64)
        predicted_N4 = box_N4.double().cpu() * size_N4
        true_N4 = torch.tensor([phrase.box_xyxy for phrase in batch.contents], dtype=torch.float64)
        # A box with a NaN has no overlap.
        iou_N, inclusive_N = (overlap_N.nan_to_num(0.0) for overlap_N in overlaps(predicted_N4, true_N4))
        scores = score_N.tolist() if has_score else [None] * len(files)
        columns = (predicted_N4.tolist(), iou_N.tolist(), scores, inclusive_N.tolist())
        for query, box, iou, score, inclusive in zip(batch.queries, *columns, strict=True):
            prediction = GroundingPrediction(
                query.record.key,
                query.record.image,
                query.content.text,
                true_xyxy=query.content.box_xyxy,
                predicted_xyxy=tuple(box),
                iou=iou,
                score=score,
                iou_inclusive=inclusive,
                split=query.content.split,
                ref_id=query.content.ref_id,
            )
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "phrase with a box")
    iou_N = torch.tensor([one.iou for one in predictions], dtype=torch.float64)
    inclusive_N = torch.tensor([one.iou_inclusive for one in predictions], dtype=torch.float64)
    metrics = grounding_metrics(iou_N, inclusive_N, [one.split for one in predictions])
    return {**metrics, "grounding_skipped": float(len(samples.skipped))}, predictions


@dataclass(frozen=True)
class Phrase:
    """A phrase with its annotated box.

    Attributes:
        split: val, testA, ...; empty if the record names none.
        ref_id: RefCOCO's id of the object, if there is one.
        boxes_of_image: the boxes of all phrases about the same image, without duplicates.
    """

    text: str
    box_xyxy: BoxXYXY
    split: str
    ref_id: Any
    boxes_of_image: tuple[BoxXYXY, ...] = ()


EncodedPhrases = tuple[QueryBatch[Phrase], ImageFeatures, TextFeatures, Tensor]


def encode_phrases(samples: SampleReader, batch_size: int) -> Iterator[EncodedPhrases]:
    """Yield N phrases about `batch_size` images at a time; see `SampleReader.encoded`."""
    return samples.encoded(read_phrases(samples), lambda phrase: phrase.text, batch_size)


def read_phrases(samples: SampleReader) -> Iterator[ImageQueries[Phrase]]:
    """Yield this rank's images with their phrases; skip records without a box."""

    def phrases_of(record: Record, file: ImageFile) -> Iterator[Phrase]:
        if all(concept.box_xyxy is None for concept in record.concepts):
            samples.skipped.append(BadRecord("no box", record.key, "there is nothing to find"))
        split, ref_id = str(record.extra.get("split", "")), record.extra.get("ref_id")
        for concept, text in samples.concept_texts(record, file, boxed=True):
            assert concept.box_xyxy is not None
            yield Phrase(text, concept.box_xyxy, split, ref_id)

    for image, queries in samples.queries("grounding", phrases_of):
        boxes = tuple(dict.fromkeys(query.content.box_xyxy for query in queries))
        yield (
            image,
            [replace(query, content=replace(query.content, boxes_of_image=boxes)) for query in queries],
        )


HEADLINE = {
    "grounding_acc50": "phrases found (box overlap at least one half)",
    "grounding_acc50_inclusive": "the same, by inclusive pixels",
    "grounding_miou": "mean overlap",
}


def sections(predictions: Sequence[GroundingPrediction]) -> list[Section]:
    """Return examples of phrases, and of those whose box is wrong."""
    finite = finite_boxes(predictions)
    wrong = [one for one in finite if one.iou < IOU_THRESHOLD]
    return example_sections(finite, wrong, example, "Where is it?", "Not found")


def finite_boxes(predictions: Sequence[GroundingPrediction]) -> list[GroundingPrediction]:
    """Return the predictions whose box can be drawn: it has no NaN or infinity."""
    return [one for one in predictions if all(map(math.isfinite, one.predicted_xyxy))]


def example(prediction: GroundingPrediction) -> GroundingExample:
    """Show a phrase with its annotated and its predicted box."""
    return GroundingExample(
        load_picture(prediction.image),
        prediction.text,
        prediction.true_xyxy,
        prediction.predicted_xyxy,
        prediction.score,
        prediction.iou,
    )


MEASURE = Measure(evaluate_grounding, HEADLINE, sections)
