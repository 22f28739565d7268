"""Grounding: is the box that the model finds for a phrase the one that people drew?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from xvlm import dist
from xvlm.data.sources import Source
from xvlm.evaluate._read import Photo, Prediction, chunks, read
from xvlm.metrics.grounding import grounding_metrics
from xvlm.model.text import TextFeatures
from xvlm.model.vision import ImageFeatures
from xvlm.predict import Predictor, ground
from xvlm.records import BadRecord, BoxXYXY, ImageData


@dataclass(frozen=True)
class GroundingPrediction(Prediction):
    """One phrase in one image; boxes in pixels of the upright image."""

    text: str
    true_xyxy: BoxXYXY
    predicted_xyxy: BoxXYXY
    iou: float
    score: float


def evaluate_grounding(
    predictor: Predictor, source: Source, limit: int | None = None, batch: int = 32
) -> tuple[dict[str, float], list[GroundingPrediction]]:
    """Every text of every boxed concept of a source is a case.

    Records that follow each other and name the same image file are asked on one encoding of it.

    Returns:
        (metrics, with `grounding_bad_records`; predictions in the source's order).
    """
    bad: list[BadRecord] = []
    predictions: list[GroundingPrediction] = []
    for asked in encoded_cases(predictor, source, limit, batch, bad):
        box_N4, score_N = ground(predictor.model, asked.features, asked.texts, asked.image_N)
        for (b, case), box, score in zip(asked.cases, box_N4.tolist(), score_N.tolist(), strict=True):
            photo = asked.photos[b].opened
            x0, y0, x1, y1 = box
            pixels_xyxy = (x0 * photo.width, y0 * photo.height, x1 * photo.width, y1 * photo.height)
            predictions.append(predicted(case, pixels_xyxy, score))
    predictions, bad = dist.collected(predictions), dist.collected(bad)
    true_N4 = torch.tensor([p.true_xyxy for p in predictions]).view(-1, 4)
    predicted_N4 = torch.tensor([p.predicted_xyxy for p in predictions]).view(-1, 4)
    metrics = grounding_metrics(predicted_N4, true_N4)
    return {**metrics, "grounding_bad_records": float(len(bad))}, predictions


def predicted(case: Case, pixels_xyxy: BoxXYXY, score: float) -> GroundingPrediction:
    """A case with its answer: a box in pixels, and a score."""
    one = grounding_metrics(torch.tensor([pixels_xyxy]), torch.tensor([case.box_xyxy]))
    return GroundingPrediction(
        case.key, case.image, case.text, case.box_xyxy, pixels_xyxy, one["grounding_miou"], score
    )


@dataclass(frozen=True)
class Case:
    """A phrase about an image, and the box that it means."""

    key: str
    image: ImageData
    text: str
    box_xyxy: BoxXYXY


@dataclass(frozen=True, eq=False)
class Asked:
    """Some images with all their cases, encoded.

    Attributes:
        photos: B images.
        cases: N, each with the number of its image; image_N: (N,) these numbers.
    """

    photos: list[Photo]
    cases: list[tuple[int, Case]]
    features: ImageFeatures
    texts: TextFeatures
    image_N: Tensor


def encoded_cases(
    predictor: Predictor, source: Source, limit: int | None, batch: int, bad: list[BadRecord]
) -> Iterator[Asked]:
    """Every text of every boxed concept of a source, `batch` images at a time."""
    for group in chunks(photos_with_cases(predictor, source, limit, bad), batch):
        cases = [(b, case) for b, (_, cases) in enumerate(group) for case in cases]
        if cases:
            yield Asked(
                [photo for photo, _ in group],
                cases,
                predictor.encode_images([photo.pixels for photo, _ in group]),
                predictor.encode_texts([case.text for _, case in cases]),
                torch.tensor([b for b, _ in cases], device=predictor.device),
            )


def photos_with_cases(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord]
) -> Iterator[tuple[Photo, list[Case]]]:
    """Images with their cases; neighbours of one path together."""
    for photo, group in groupby(read(predictor, source, limit, bad, "grounding"), key=lambda item: item[2]):
        yield (
            photo,
            [
                Case(record.key, record.image, text, concept.box_xyxy)
                for record, concepts, _ in group
                for concept in concepts
                if concept.box_xyxy is not None
                for text in concept.texts
            ],
        )


evaluate = evaluate_grounding
