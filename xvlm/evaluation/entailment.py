"""Visual entailment: accuracy of the label of a hypothesis about an image (Xie et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any

from xvlm.common.ranges import PositiveInt, checked
from xvlm.data.images.decode import ImageFile
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import LabelledText, labelled_texts_of
from xvlm.evaluation.common.measure import Measure, Prediction, example_sections
from xvlm.evaluation.common.queries import batches
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.classification import classify_texts
from xvlm.inference.model import InferenceModel
from xvlm.records import BadRecord, Record
from xvlm.reports import AnswerExample, Section
from xvlm.reports.pictures import load_picture


@dataclass(frozen=True)
class EntailmentPrediction(Prediction):
    """The predicted label of a hypothesis.

    Attributes:
        pair_id: `pairID` of the file, unchanged.
        truth: the annotated label.
        label: the most probable label.
        probabilities: probability of each label.
    """

    pair_id: Any
    hypothesis: str
    truth: str
    label: str
    probabilities: dict[str, float]

    @property
    def correct(self) -> bool:
        """Whether the label is correct; False if its probability is NaN."""
        return not isnan(self.probabilities[self.label]) and self.label == self.truth

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and `right`, as plain values."""
        return {**super().to_json(), "right": self.correct}


@checked
def evaluate_entailment(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[EntailmentPrediction]]:
    """Evaluate visual entailment; a record holds an image and one or more hypotheses with their labels.

    Args:
        limit: number of records; by default all.
        batch_size: images in a batch.
    Returns:
        metrics, and predictions in the order of the source.  `entailment_acc_LABEL` is the accuracy on the
        hypotheses whose annotated label is LABEL.
    Raises MissingHead if the model has no classifier, InputError if there is no hypothesis.
    """
    samples = SampleReader(predictor, source, limit, skipped, "classifier")
    labels = predictor.model.classifier.names
    indexed: list[tuple[int, EntailmentPrediction]] = []
    for batch in batches(samples.queries("hypotheses", partial(usable_hypotheses, samples)), batch_size):
        features = predictor.encode_images(batch.pixels)
        texts = [hypothesis.text for hypothesis in batch.contents]
        classified = classify_texts(predictor, features, texts, batch.image_index)
        for query, probabilities in zip(batch.queries, classified, strict=True):
            prediction = EntailmentPrediction(
                query.record.key,
                query.record.image,
                query.content.pair_id,
                query.content.text,
                truth=labels[query.content.label],
                label=max(probabilities, key=probabilities.__getitem__),
                probabilities=probabilities,
            )
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "hypothesis with a label")
    correct_by_label: dict[str, list[bool]] = {}
    for prediction in predictions:
        correct_by_label.setdefault(prediction.truth, []).append(prediction.correct)
    return {
        "entailment_acc": sum(one.correct for one in predictions) / len(predictions),
        **{
            f"entailment_acc_{label}": sum(correct) / len(correct)
            for label, correct in sorted(correct_by_label.items())
        },
        "entailment_hypotheses": float(len(predictions)),
        "entailment_skipped": float(len(samples.skipped)),
    }, predictions


def usable_hypotheses(samples: SampleReader, record: Record, file: ImageFile) -> Iterator[LabelledText]:
    """Yield the hypotheses of a record that have tokens and a label; skip the others."""
    try:
        hypotheses, bad = labelled_texts_of(record, samples.predictor.model.classifier.names)
    except BadRecord as error:
        samples.skipped.append(error)
        return
    samples.skipped.extend(bad)
    yield from (one for one in hypotheses if samples.has_tokens(one.text, record.key))


HEADLINE = {
    "entailment_acc": "hypotheses labelled correctly",
    "entailment_acc_entailment": "of the entailed ones",
    "entailment_acc_neutral": "of the neutral ones",
    "entailment_acc_contradiction": "of the contradicted ones",
}


def sections(predictions: Sequence[EntailmentPrediction]) -> list[Section]:
    """Return examples of hypotheses, and of those labelled wrong."""
    wrong = [one for one in predictions if not one.correct]
    legend = "✓ marks the annotated label."
    return example_sections(predictions, wrong, example, "Does it follow?", "Labelled wrong", legend)


def example(prediction: EntailmentPrediction) -> AnswerExample:
    """Show a hypothesis with the probability of each label."""
    return AnswerExample(
        [load_picture(prediction.image)],
        prediction.hypothesis,
        [(label, p, label == prediction.truth) for label, p in prediction.probabilities.items()],
        correct=prediction.correct,
    )


MEASURE = Measure(evaluate_entailment, HEADLINE, sections)
