"""Captions: how much of what people said of an image does the model say?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from xvlm import dist
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.data.views import key_of
from xvlm.evaluate._read import Prediction, check_any, chunks, needs, readable, records
from xvlm.metrics.captions import caption_scores
from xvlm.model.decoding import Decoding, TopP
from xvlm.predict import Predictor
from xvlm.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed
from xvlm.records import BadRecord, Record


@dataclass(frozen=True)
class CaptionPrediction(Prediction):
    """What the model says of one image, and what people said.

    Attributes:
        image_id: see `image_id`.
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
) -> tuple[dict[str, float], list[CaptionPrediction]]:
    """Every record is an image, with what people said of it where that is known.

    Records of one `image_id` count as one: its first caption, against all references.

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
    Returns:
        (metrics, predictions in the source's order); metrics only count where nobody said anything.
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    decoding = Decoding(
        beams, samples, top_k, top_p, temperature, seed, min_tokens, max_tokens, repetition_penalty
    )
    needs(predictor, "captions")
    bad: list[BadRecord] = []
    found: list[CaptionPrediction] = []
    for chunk in chunks(shown(predictor, source, limit, bad), batch):
        features = predictor.encode_images([pixels for _, _, pixels in chunk])
        # Draws depend on the record alone, not on its neighbours or on where its file lies.
        seeds = [key_of(f"{seed} {os.path.basename(record.key)}") for record, _, _ in chunk]
        written = predictor.describe(features, decoding, seeds)
        found += [
            CaptionPrediction(record.key, record.image, image_id(record), captions[0], references)
            for (record, references, _), captions in zip(chunk, written, strict=True)
        ]
    found, bad = one_an_image(dist.collected(found)), dist.collected(bad)
    check_any(found, source, "image", bad)
    counts = {"caption_images": float(len(found)), "caption_bad_records": float(len(bad))}
    labelled = [one for one in found if one.references]
    if not labelled:
        return counts, found
    captions, references = zip(*((one.caption, one.references) for one in labelled), strict=True)
    scores = dist.of_main(lambda: caption_scores(captions, references, java))
    if dist.is_main():
        print(scores.note, file=sys.stderr)
    left = iter(scores.cider)
    found = [replace(one, cider=next(left)) if one.references else one for one in found]
    return scores.metrics | counts | {"caption_labelled": float(len(labelled))}, found


def shown(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord]
) -> Iterator[tuple[Record, tuple[str, ...], Tensor]]:
    """Records with what was said of the whole image, and the pixels (3, height, width) that are shown."""
    for record in records(source, limit, bad, "captions"):
        try:
            pixels = predictor.pixels(open_image(record.image, key=record.key))
        except BadRecord as error:
            bad.append(error)
            continue
        wholes = [concept for concept in record.concepts if concept.box_xyxy is None]
        usable = [readable(predictor, concept, record.key, bad) for concept in wholes]
        yield record, tuple(text for concept in usable for text in concept.texts), pixels


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


def one_an_image(predictions: Sequence[CaptionPrediction]) -> list[CaptionPrediction]:
    """Those of one image brought together: the first one's caption with the references of all."""
    kept: dict[tuple[str, str], CaptionPrediction] = {}
    for one in predictions:
        key = (repr(one.image_id), one.image if isinstance(one.image, str) else one.key)
        first = kept.setdefault(key, replace(one, references=()))
        kept[key] = replace(first, references=(*first.references, *one.references))
    return list(kept.values())


def submission(predictions: Sequence[CaptionPrediction]) -> list[dict[str, Any]]:
    """What COCO's and nocaps' servers take."""
    return [{"image_id": one.image_id, "caption": one.caption} for one in predictions]


evaluate = evaluate_captions
