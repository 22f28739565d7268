"""Visual entailment: is a hypothesis about an image told the label that people gave it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from xvlm import dist
from xvlm.data.fields import Labelled, labelled_of
from xvlm.data.sources import Source
from xvlm.evaluate._read import Photo, Prediction, check_any, chunks, has_tokens, needs, read
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
        """Whether the model says what people said."""
        return self.label == self.truth

    def to_json(self) -> dict[str, Any]:
        """Plain values; an image that is no path is left out."""
        return {**super().to_json(), "right": self.right}


def evaluate_entailment(
    predictor: Predictor, source: Source, limit: PositiveInt | None = None, batch: PositiveInt = 32
) -> tuple[dict[str, float], list[EntailmentPrediction]]:
    """Every record is a hypothesis about an image, or holds several about it.

    Records that follow each other and name the same image file are asked on one encoding of it.

    Returns:
        (metrics, predictions in the source's order); beside `entailment_acc`, the accuracy on the hypotheses
        of each label that occurs, `entailment_acc_neutral` and so on.
    Raises:
        InputError: there is no hypothesis; the message says why not.
        MissingPart: the model was not trained for it.
    """
    needs(predictor, "labels")
    bad: list[BadRecord] = []
    predictions: list[EntailmentPrediction] = []
    for group in chunks(photos_with_hypotheses(predictor, source, limit, bad), batch):
        asked = [(b, record, one) for b, (_, several) in enumerate(group) for record, one in several]
        features = predictor.encode_images([photo.pixels for photo, _ in group])
        found = predictor.label(features, [one.text for _, _, one in asked], [b for b, _, _ in asked])
        names = predictor.model.labels.names
        for (_, record, one), probabilities in zip(asked, found, strict=True):
            likeliest = max(probabilities, key=probabilities.__getitem__)
            truth = names[one.label]
            predictions.append(
                EntailmentPrediction(
                    record.key, record.image, one.number, one.text, truth, likeliest, probabilities
                )
            )
    predictions, bad = dist.collected(predictions), dist.collected(bad)
    check_any(predictions, source, "hypothesis with a label", bad)
    right_of: dict[str, list[bool]] = {}
    for prediction in predictions:
        right_of.setdefault(prediction.truth, []).append(prediction.right)
    return {
        "entailment_acc": sum(one.right for one in predictions) / len(predictions),
        **{f"entailment_acc_{name}": sum(right) / len(right) for name, right in sorted(right_of.items())},
        "entailment_hypotheses": float(len(predictions)),
        "entailment_bad_records": float(len(bad)),
    }, predictions


def photos_with_hypotheses(
    predictor: Predictor, source: Source, limit: int | None, bad: list[BadRecord]
) -> Iterator[tuple[Photo, list[tuple[Record, Labelled]]]]:
    """Images with their hypotheses, at least one; neighbours of one path together."""
    labels = predictor.model.labels.names
    for photo, group in groupby(read(predictor, source, limit, bad, "hypotheses"), key=lambda item: item[2]):
        several = [(record, one) for record, _, _ in group for one in usable(predictor, record, labels, bad)]
        if several:
            yield photo, several


def usable(
    predictor: Predictor, record: Record, labels: tuple[str, ...], bad: list[BadRecord]
) -> Iterator[Labelled]:
    """The hypotheses of a record that have tokens and a label; why others have not goes to `bad`."""
    try:
        several, without = labelled_of(record, labels)
    except BadRecord as error:
        bad.append(error)
        return
    bad += without
    yield from (one for one in several if has_tokens(predictor, one.text, record.key, bad))


evaluate = evaluate_entailment
