"""Captions: how much of what people said of an image does the model say?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xvlm import dist
from xvlm.data.sources import Source
from xvlm.data.text import clean_caption
from xvlm.data.views import key_of
from xvlm.evaluate._read import (
    Photo,
    Prediction,
    batches,
    check_any,
    check_least,
    in_order,
    needs,
    photos,
)
from xvlm.evaluate._skipped import Skipped
from xvlm.metrics.captions import caption_scores
from xvlm.model.decoding import Decoding, TopP
from xvlm.predict import Predictor
from xvlm.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed
from xvlm.records import BadRecord, Record, same_id
from xvlm.terminal import notice


@dataclass(frozen=True)
class CaptionPrediction(Prediction):
    """What the model says of one image, and what people said.

    Attributes:
        image_id: see `image_id`; of several records as the first one has it.
        references: of a test set none.
        cider: how well they agree; `None` without references.
    """

    image_id: Any
    caption: str
    references: tuple[str, ...]
    cider: float | None = None


def evaluate_captions(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    beams: PositiveInt = 3,
    samples: NonNegativeInt = 0,
    top_k: NonNegativeInt = 0,
    top_p: TopP = 1.0,
    temperature: PositiveFloat = 1.0,
    seed: Seed = 0,
    min_tokens: NonNegativeInt = 5,
    max_tokens: PositiveInt = 20,
    repetition_penalty: PositiveFloat = 1.0,
    java: bool = True,
    batch: PositiveInt = 32,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[CaptionPrediction]]:
    """Every record is an image, with what people said of it where that is known.

    Records of the same image and `image_id`, wherever they stand, are described once, against all references.

    Args:
        beams: of the search for the likeliest caption; 1 is greedy.
        samples: captions that are drawn instead, of which the likeliest is taken; `top_k`, `top_p` or
            `temperature` alone ask for one.
        top_k: draw from so many of the likeliest tokens; 0: from all.
        top_p: draw from the likeliest tokens that together have this share of the probability.
        temperature: below 1 makes likely tokens likelier.
        seed: of what is drawn.
        min_tokens: of a caption at least, its prompt included.
        max_tokens: of a caption at most.
        repetition_penalty: above 1 makes repeated tokens less likely.
        java: compute what needs Java too, where it is there: the PTB tokenizer, METEOR, SPICE.
        batch: images at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, predictions in the source's order); metrics only count where nobody said anything.
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    decoding = Decoding(
        beams, samples, top_k, top_p, temperature, seed, min_tokens, max_tokens, repetition_penalty
    )
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "captions")
    skipped = Skipped() if skipped is None else skipped
    told: list[tuple[int, CaptionPrediction]] = []
    for group in batches(described(predictor, source, limit, skipped), batch, batch):
        asked = [(photo, *one) for photo, several in group for one in several]
        features = predictor.encode_images([photo.pixels for photo, *_ in asked])
        # Draws depend on the record alone, not on its neighbours or on where its file lies.
        seeds = [key_of(f"{seed} {os.path.basename(record.key)}") for _, _, record, _ in asked]
        written = predictor.describe(features, decoding, seeds)
        for (_, number, record, said), (caption, *_) in zip(asked, written, strict=True):
            one = CaptionPrediction(record.key, record.image, image_id(record), caption, said)
            told.append((number, one))
    found = in_order(told)
    skipped.gather(len(found))
    check_any(found, source, "image", skipped)
    counts = {"caption_images": float(len(found)), "caption_bad_records": float(len(skipped))}
    labelled = [one for one in found if one.references]
    if not labelled:
        return counts, found
    captions, references = zip(*((one.caption, one.references) for one in labelled), strict=True)
    scores = dist.of_main(lambda: caption_scores(captions, references, java))
    if dist.is_main():
        notice(scores.note)
    left = iter(scores.cider)
    found = [replace(one, cider=next(left)) if one.references else one for one in found]
    return scores.metrics | counts | {"caption_labelled": float(len(labelled))}, found


def described(
    predictor: Predictor, source: Source, limit: int | None, skipped: Skipped
) -> Iterator[tuple[Photo, list[tuple[int, Record, tuple[str, ...]]]]]:
    """Images, each with the first record of every id that it has, and what all records of that id say."""
    for photo in photos(predictor, source, limit, skipped, "captions", lambda record: [image_id(record)]):
        of_id: dict[str, tuple[int, Record, tuple[str, ...]]] = {}
        for number, record in photo.records:
            first, shown, said = of_id.setdefault(same_id(image_id(record)), (number, record, ()))
            said = (*said, *references_of(record, skipped))
            of_id[same_id(image_id(record))] = first, shown, said
        yield photo, list(of_id.values())


def references_of(record: Record, skipped: Skipped) -> list[str]:
    """What people said of the whole image, in any vocabulary; empty texts are skipped."""
    skipped.extend(one for one in record.bad if not one.detail.startswith("elems["))
    usable = []
    for text in (text for one in record.concepts if one.box_xyxy is None for text in one.texts):
        try:
            clean_caption(text)
        except BadRecord as error:
            skipped.append(BadRecord(error.reason, record.key, error.detail))
        else:
            usable.append(text)
    return usable


def image_id(record: Record) -> Any:
    """`image_id`; without it the number that ends the file's name, as COCO's do (published); else the name of
    the file, or the record's key."""
    if record.extra.get("image_id") is not None:
        return record.extra["image_id"]
    if not isinstance(record.image, str):
        return record.key
    name = os.path.basename(record.image)
    last = os.path.splitext(name)[0].rpartition("_")[2]
    return int(last) if last.isascii() and last.isdigit() else name


def submission(predictions: Sequence[CaptionPrediction]) -> list[dict[str, Any]]:
    """What COCO's and nocaps' servers take: each id once."""
    once: dict[str, CaptionPrediction] = {}
    for one in predictions:
        once.setdefault(same_id(one.image_id), one)
    return [{"image_id": one.image_id, "caption": one.caption} for one in once.values()]


evaluate = evaluate_captions
