"""Grounding: is the box that the model finds for a phrase the one that people drew?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xvlm.data.sources import Source
from xvlm.evaluate._read import (
    Photo,
    Prediction,
    batches,
    check_any,
    check_least,
    in_order,
    needs,
    photos,
    readable,
    usable,
)
from xvlm.evaluate._skipped import Skipped
from xvlm.metrics.grounding import grounding_metrics, overlaps
from xvlm.model.text import TextFeatures
from xvlm.model.vision import ImageFeatures
from xvlm.predict import Predictor, ground
from xvlm.ranges import PositiveInt
from xvlm.records import BadRecord, BoxXYXY, ImageData, Record


@dataclass(frozen=True)
class GroundingPrediction(Prediction):
    """One phrase in one image; boxes in pixels of the upright image.

    Attributes:
        score: see `Grounded`; `None` if the model has no matching head, as JSON knows no NaN.
        iou, iou_inclusive: overlap of the two boxes, plain and by inclusive pixels (`metrics/grounding.py`).
        split, ref_id: of the record, where it names them.
    """

    text: str
    true_xyxy: BoxXYXY
    predicted_xyxy: BoxXYXY
    iou: float
    score: float | None
    iou_inclusive: float
    split: str
    ref_id: Any


def evaluate_grounding(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    batch: PositiveInt = 32,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[GroundingPrediction]]:
    """Every text of every boxed concept of a source is a case.

    Records of the same image, wherever they stand, are asked on one encoding of it.

    Args:
        limit: use only the first so many records.
        batch: images at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, with `grounding_bad_records`; predictions in the source's order).  Where records name their
        split, the accuracy of each stands beside that of all (`grounding_acc50_testA`).
    Raises:
        MissingPart: the model has no box head.
        InputError: there is no case.
    """
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "box")
    skipped = Skipped() if skipped is None else skipped
    found: list[tuple[int, GroundingPrediction]] = []
    for asked in encoded_cases(predictor, source, limit, batch, skipped):
        box_N4, score_N = ground(predictor.model, asked.features, asked.texts, asked.image_N)
        opened = [asked.photos[b].opened for b, _ in asked.cases]
        size_N4 = torch.tensor([[one.width, one.height] * 2 for one in opened], dtype=torch.float64)
        predicted_N4 = box_N4.double().cpu() * size_N4
        true_N4 = torch.tensor([case.box_xyxy for _, case in asked.cases], dtype=torch.float64)
        # A box that is no number overlaps with nothing.
        iou_N, inclusive_N = (found_N.nan_to_num(0.0) for found_N in overlaps(predicted_N4, true_N4))
        scores = score_N.tolist() if "matching" in predictor.model.config.parts else [None] * len(asked.cases)
        columns = (predicted_N4.tolist(), iou_N.tolist(), scores, inclusive_N.tolist())
        for (_, case), box, iou, score, inclusive in zip(asked.cases, *columns, strict=True):
            prediction = GroundingPrediction(
                key=case.key,
                image=case.image,
                text=case.text,
                true_xyxy=case.box_xyxy,
                predicted_xyxy=tuple(box),
                iou=iou,
                score=score,
                iou_inclusive=inclusive,
                split=case.split,
                ref_id=case.ref_id,
            )
            found.append((case.number, prediction))
    predictions = in_order(found)
    skipped.gather(len(predictions))
    check_any(predictions, source, "phrase with a box", skipped)
    iou_N = torch.tensor([one.iou for one in predictions], dtype=torch.float64)
    inclusive_N = torch.tensor([one.iou_inclusive for one in predictions], dtype=torch.float64)
    metrics = grounding_metrics(iou_N, inclusive_N, [one.split for one in predictions])
    return {**metrics, "grounding_bad_records": float(len(skipped))}, predictions


@dataclass(frozen=True)
class Case:
    """A phrase about an image, and the box that it means.

    Attributes:
        number: of its record in the source; `extra` is that record's.
        boxes_xyxy: those of all phrases about the same image, each once.
    """

    number: int
    key: str
    image: ImageData
    text: str
    box_xyxy: BoxXYXY
    extra: Mapping[str, Any]
    boxes_xyxy: tuple[BoxXYXY, ...] = ()

    @property
    def split(self) -> str:
        """val, testA, ...; empty where the record names none."""
        return str(self.extra.get("split", ""))

    @property
    def ref_id(self) -> Any:
        """RefCOCO's number of the thing that is meant, if there is one."""
        return self.extra.get("ref_id")


@dataclass(frozen=True, eq=False)
class Asked:
    """Some images with cases about them, encoded.

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
    predictor: Predictor, source: Source, limit: int | None, batch: int, skipped: Skipped
) -> Iterator[Asked]:
    """Every text of every boxed concept of a source, `batch` images at a time."""
    for group in batches(photos_with_cases(predictor, source, limit, skipped), batch):
        cases = [(b, case) for b, (_, cases) in enumerate(group) for case in cases]
        yield Asked(
            [photo for photo, _ in group],
            cases,
            predictor.encode_images([photo.pixels for photo, _ in group]),
            predictor.encode_texts([case.text for _, case in cases]),
            torch.tensor([b for b, _ in cases], device=predictor.device),
        )


def photos_with_cases(
    predictor: Predictor, source: Source, limit: int | None, skipped: Skipped
) -> Iterator[tuple[Photo, list[Case]]]:
    """Images with their cases.  Records without a box are skipped."""
    for photo in photos(predictor, source, limit, skipped, "grounding"):
        cases = [
            Case(number, record.key, record.image, text, box_xyxy, record.extra)
            for number, record in photo.records
            for text, box_xyxy in phrases_of(predictor, record, photo, skipped)
        ]
        boxes_xyxy = tuple(dict.fromkeys(case.box_xyxy for case in cases))
        yield photo, [replace(case, boxes_xyxy=boxes_xyxy) for case in cases]


def phrases_of(
    predictor: Predictor, record: Record, photo: Photo, skipped: Skipped
) -> Iterator[tuple[str, BoxXYXY]]:
    """Every usable text with its box."""
    if all(concept.box_xyxy is None for concept in record.concepts):
        skipped.append(BadRecord("no box", record.key, "there is nothing to find"))
    for concept in usable(record, photo, skipped, boxed=True):
        for text in readable(predictor, concept, record.key, skipped):
            assert concept.box_xyxy is not None
            yield text, concept.box_xyxy


evaluate = evaluate_grounding
