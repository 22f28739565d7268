"""Visual entailment: is a hypothesis about an image told the label that people gave it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any

from xvlm.data.fields import Labelled, labelled_of
from xvlm.data.sources import Source
from xvlm.evaluate._read import (
    Photo,
    Prediction,
    batches,
    check_any,
    check_least,
    has_tokens,
    in_order,
    needs,
    photos,
)
from xvlm.evaluate._skipped import Skipped
from xvlm.predict import Predictor
from xvlm.ranges import PositiveInt
from xvlm.records import BadRecord, Record


@dataclass(frozen=True)
class EntailmentPrediction(Prediction):
    """One hypothesis about one image.

    Attributes:
        pair_id: as it stands in the file.
        truth, label: what people said, and the likeliest for the model.
        probabilities: of every label.
    """

    pair_id: Any
    hypothesis: str
    truth: str
    label: str
    probabilities: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the model says what people said; never for a probability that is no number."""
        return not isnan(self.probabilities[self.label]) and self.label == self.truth

    def to_json(self) -> dict[str, Any]:
        """Plain values; an image that is no path is left out."""
        return {**super().to_json(), "right": self.right}


def evaluate_entailment(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    batch: PositiveInt = 32,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[EntailmentPrediction]]:
    """Every record is a hypothesis about an image, or holds several about it.

    Records of the same image, wherever they stand, are asked on one encoding of it.

    Args:
        limit: use only the first so many records.
        batch: images at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, predictions in the source's order); beside `entailment_acc`, the accuracy on the hypotheses
        of each label that occurs, `entailment_acc_neutral` and so on.
    Raises:
        InputError: there is no hypothesis; the message says why not.
        MissingPart: the model was not trained for it.
    """
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "labels")
    skipped = Skipped() if skipped is None else skipped
    found: list[tuple[int, EntailmentPrediction]] = []
    names = predictor.model.labels.names
    for group in batches(photos_with_hypotheses(predictor, source, limit, skipped), batch):
        asked = [(b, *one) for b, (_, several) in enumerate(group) for one in several]
        features = predictor.encode_images([photo.pixels for photo, _ in group])
        texts = [one.text for *_, one in asked]
        labelled = predictor.label(features, texts, [b for b, *_ in asked])
        for (_, number, record, one), probabilities in zip(asked, labelled, strict=True):
            likeliest = max(probabilities, key=probabilities.__getitem__)
            truth = names[one.label]
            prediction = EntailmentPrediction(
                record.key, record.image, one.number, one.text, truth, likeliest, probabilities
            )
            found.append((number, prediction))
    predictions = in_order(found)
    skipped.gather(len(predictions))
    check_any(predictions, source, "hypothesis with a label", skipped)
    right_of: dict[str, list[bool]] = {}
    for prediction in predictions:
        right_of.setdefault(prediction.truth, []).append(prediction.right)
    return {
        "entailment_acc": sum(one.right for one in predictions) / len(predictions),
        **{f"entailment_acc_{name}": sum(right) / len(right) for name, right in sorted(right_of.items())},
        "entailment_hypotheses": float(len(predictions)),
        "entailment_bad_records": float(len(skipped)),
    }, predictions


def photos_with_hypotheses(
    predictor: Predictor, source: Source, limit: int | None, skipped: Skipped
) -> Iterator[tuple[Photo, list[tuple[int, Record, Labelled]]]]:
    """Images with their hypotheses, each with its record."""
    labels = predictor.model.labels.names
    for photo in photos(predictor, source, limit, skipped, "hypotheses"):
        yield (
            photo,
            [
                (number, record, one)
                for number, record in photo.records
                for one in usable_hypotheses(predictor, record, labels, skipped)
            ],
        )


def usable_hypotheses(
    predictor: Predictor, record: Record, labels: tuple[str, ...], skipped: Skipped
) -> Iterator[Labelled]:
    """The hypotheses of a record that have tokens and a label; the others are skipped."""
    try:
        several, without = labelled_of(record, labels)
    except BadRecord as error:
        skipped.append(error)
        return
    skipped.extend(without)
    yield from (one for one in several if has_tokens(predictor, one.text, record.key, skipped))


evaluate = evaluate_entailment
