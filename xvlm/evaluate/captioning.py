"""Captions: how much of what people said of an image does the model say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xvlm import dist
from xvlm.data.sources import Source
from xvlm.data.text import clean_caption
from xvlm.evaluate._read import Prediction, captioned, chunks, read
from xvlm.metrics.cider import Cider
from xvlm.predict import Predictor
from xvlm.records import BadRecord, ImageData


@dataclass(frozen=True)
class CaptionPrediction(Prediction):
    """What the model says of one image, and what people said; `cider` is their agreement."""

    image_id: Any
    caption: str
    references: tuple[str, ...]
    cider: float


def evaluate_captions(
    predictor: Predictor,
    source: Source,
    limit: int | None = None,
    beams: int = 3,
    min_tokens: int = 5,
    max_tokens: int = 20,
    batch: int = 32,
) -> tuple[dict[str, float], list[CaptionPrediction]]:
    """Every record is an image with what people said of it; words are compared after cleaning.

    Args:
        beams, min_tokens, max_tokens: see `Photo.caption`.
    Returns:
        (metrics, predictions in the source's order).
    """
    bad: list[BadRecord] = []
    said: list[tuple[str, ImageData, Any, str, tuple[str, ...]]] = []
    for chunk in chunks(captioned(read(predictor, source, limit, bad, "captions"), bad), batch):
        features = predictor.encode_images([photo.pixels for _, _, photo in chunk])
        found = predictor.describe(features, beams, min_tokens, max_tokens)
        for (record, captions, _), caption in zip(chunk, found, strict=True):
            number = record.extra.get("image_id")
            said.append((record.key, record.image, number, caption, tuple(map(clean_caption, captions))))
    said, bad = dist.collected(said), dist.collected(bad)
    cider = Cider(references for *_, references in said)
    scores = [cider.score(caption, references) for *_, caption, references in said]
    predictions = [CaptionPrediction(*one, score) for one, score in zip(said, scores, strict=True)]
    return {
        "caption_cider": sum(scores) / max(1, len(scores)),
        "caption_images": float(len(said)),
        "caption_bad_records": float(len(bad)),
    }, predictions


evaluate = evaluate_captions
