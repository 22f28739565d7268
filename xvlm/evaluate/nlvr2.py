"""Statements about pairs of images: is it true?  Accuracy, and how often all about one pair are right."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import isnan
from typing import Any

from xvlm.data.fields import images_of, statements_of
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.evaluate._read import check_any, check_least, chunks, has_tokens, in_order, needs, own_records
from xvlm.evaluate._skipped import Skipped
from xvlm.predict import Predictor
from xvlm.ranges import PositiveInt
from xvlm.records import BadRecord, ImageData


@dataclass(frozen=True)
class PairPrediction:
    """One statement about two images; `probability` is that of its being true."""

    key: str
    images: tuple[ImageData, ImageData]
    statement: str
    truth: int
    probability: float

    @property
    def right(self) -> bool:
        """Whether the likelier of true and false is the case; never for a probability that is no number."""
        return not isnan(self.probability) and (self.probability > 0.5) == bool(self.truth)

    def to_json(self) -> dict[str, Any]:
        """Plain values; images that are no paths are left out."""
        paths = [image if isinstance(image, str) else None for image in self.images]
        return {**vars(self), "images": paths, "right": self.right}


def evaluate_pairs(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    batch: PositiveInt = 32,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[PairPrediction]]:
    """Every record is a statement about two images, or holds several about them.

    Args:
        limit: use only the first so many records.
        batch: records at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, predictions in the source's order); `nlvr2_consistency` is over the statements of NLVR2 that
        speak of different pairs with the same words.
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "pairs")
    skipped = Skipped() if skipped is None else skipped
    found: list[tuple[int, PairPrediction]] = []
    for chunk in chunks(own_records(source, limit, skipped, "statements"), batch):
        cases: list[tuple[int, str, tuple[ImageData, ImageData], str, int]] = []
        pairs, sides = [], []
        for number, record in chunk:
            bad: list[BadRecord] = []
            try:
                images = images_of(record)
                several = statements_of(record, bad)
                said = [one for one in several if has_tokens(predictor, one[0], record.key, skipped)]
                if said:
                    sides.append([predictor.pixels(open_image(one, key=record.key)) for one in images])
            except BadRecord as error:
                skipped.append(error)
                continue
            finally:
                skipped.extend(bad)
            cases += [(number, record.key, images, statement, truth) for statement, truth in said]
            pairs += [len(sides) - 1] * len(said)
        if not cases:
            continue
        left, right = zip(*sides, strict=True)
        judged = predictor.judge(left, right, [statement for _, _, _, statement, _ in cases], pairs)
        for (number, key, images, statement, truth), probability in zip(cases, judged, strict=True):
            found.append((number, PairPrediction(key, images, statement, truth, probability)))
    predictions = in_order(found)
    skipped.gather(len(predictions))
    check_any(predictions, source, "statement about two images", skipped)
    together: dict[str, list[bool]] = defaultdict(list)
    for one in predictions:
        together[one.statement].append(one.right)
    return {
        "nlvr2_acc": sum(one.right for one in predictions) / len(predictions),
        "nlvr2_consistency": sum(map(all, together.values())) / len(together),
        "nlvr2_statements": float(len(predictions)),
        "nlvr2_bad_records": float(len(skipped)),
    }, predictions


evaluate = evaluate_pairs
