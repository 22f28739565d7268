"""Statements about pairs of images: is it true?  Accuracy, and how often all about one pair are right."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from xvlm import dist
from xvlm.data.fields import images_of, statements_of
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.evaluate._read import check_any, chunks, has_tokens, needs, records
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
        """Whether the likelier of true and false is the case."""
        return (self.probability > 0.5) == bool(self.truth)

    def to_json(self) -> dict[str, Any]:
        """Plain values; images that are no paths are left out."""
        paths = [image if isinstance(image, str) else None for image in self.images]
        return {**vars(self), "images": paths, "right": self.right}


def evaluate_pairs(
    predictor: Predictor, source: Source, limit: PositiveInt | None = None, batch: PositiveInt = 32
) -> tuple[dict[str, float], list[PairPrediction]]:
    """Every record is a statement about two images, or holds several about them.

    Returns:
        (metrics, predictions in the source's order); `nlvr2_consistency` is over the statements of NLVR2 that
        speak of different pairs with the same words.
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    needs(predictor, "pairs")
    bad: list[BadRecord] = []
    predictions: list[PairPrediction] = []
    for chunk in chunks(records(source, limit, bad, "statements"), batch):
        cases, pairs, sides = [], [], []
        for record in chunk:
            try:
                images = images_of(record)
                said = [
                    one for one in statements_of(record) if has_tokens(predictor, one[0], record.key, bad)
                ]
                if said:
                    sides.append([predictor.pixels(open_image(one, key=record.key)) for one in images])
            except BadRecord as error:
                bad.append(error)
                continue
            cases += [(record.key, images, statement, truth) for statement, truth in said]
            pairs += [len(sides) - 1] * len(said)
        if not cases:
            continue
        left, right = zip(*sides, strict=True)
        found = predictor.judge(left, right, [statement for _, _, statement, _ in cases], pairs)
        predictions += [PairPrediction(*case, one) for case, one in zip(cases, found, strict=True)]
    predictions, bad = dist.collected(predictions), dist.collected(bad)
    check_any(predictions, source, "statement about two images", bad)
    together: dict[str, list[bool]] = defaultdict(list)
    for one in predictions:
        together[one.statement].append(one.right)
    return {
        "nlvr2_acc": sum(one.right for one in predictions) / len(predictions),
        "nlvr2_consistency": sum(map(all, together.values())) / len(together),
        "nlvr2_statements": float(len(predictions)),
        "nlvr2_bad_records": float(len(bad)),
    }, predictions


evaluate = evaluate_pairs
