"""NLVR2: accuracy of the truth of statements about image pairs, and consistency (Suhr et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from torch import Tensor

from xvlm.common.ranges import PositiveInt, checked
from xvlm.data.images.decode import open_image
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import image_pair_of, statements_of
from xvlm.evaluation.common.measure import Measure, example_sections
from xvlm.evaluation.common.queries import Query, chunks
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.classification import judge_statements
from xvlm.inference.model import InferenceModel
from xvlm.records import BadRecord, ImageData, Record
from xvlm.reports import AnswerExample, Section
from xvlm.reports.pictures import load_picture


@dataclass(frozen=True)
class NLVR2Prediction:
    """A statement about two images.

    Attributes:
        truth: 1 if the statement is annotated as true, else 0.
        probability: predicted probability that it is true.
    """

    key: str
    images: tuple[ImageData, ImageData]
    statement: str
    truth: int
    probability: float

    @property
    def correct(self) -> bool:
        """Whether the more probable truth value is correct; False if the probability is NaN."""
        return not isnan(self.probability) and (self.probability > 0.5) == bool(self.truth)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and `right`, as plain values; an image that is not a path becomes `None`."""
        paths = [image if isinstance(image, str) else None for image in self.images]
        return {**vars(self), "images": paths, "right": self.correct}


@checked
def evaluate_nlvr2(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[NLVR2Prediction]]:
    """Evaluate NLVR2; a record holds two images and one or more statements with their truth.

    Args:
        limit: number of records; by default all.
        batch_size: records in a batch.
    Returns:
        metrics, and predictions in the order of the source.  `nlvr2_consistency` is the fraction of sentences
        that are judged correctly with all their image pairs.
    Raises MissingHead if the model has no pair classifier, InputError if there is no statement.
    """
    samples = SampleReader(predictor, source, limit, skipped, "pair_classifier")
    indexed: list[tuple[int, NLVR2Prediction]] = []
    for chunk in chunks(samples.records("statements"), batch_size):
        pixels: list[tuple[Tensor, ...]] = []
        queries: list[Query[tuple[str, int]]] = []
        pair_index: list[int] = []
        for index, record in chunk:
            if pair := read_pair(samples, record):
                pair_index += [len(pixels)] * len(pair[1])
                pixels.append(pair[0])
                queries += [Query(index, record, statement) for statement in pair[1]]
        if not queries:
            continue
        left, right = zip(*pixels, strict=True)
        statements = [query.content[0] for query in queries]
        probabilities = judge_statements(predictor, left, right, statements, pair_index)
        for query, probability in zip(queries, probabilities, strict=True):
            images = image_pair_of(query.record)
            prediction = NLVR2Prediction(query.record.key, images, *query.content, probability)
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "statement about two images")
    correct_by_sentence: dict[str, list[bool]] = defaultdict(list)
    for one in predictions:
        correct_by_sentence[one.statement].append(one.correct)
    return {
        "nlvr2_acc": sum(one.correct for one in predictions) / len(predictions),
        "nlvr2_consistency": sum(map(all, correct_by_sentence.values())) / len(correct_by_sentence),
        "nlvr2_statements": float(len(predictions)),
        "nlvr2_skipped": float(len(samples.skipped)),
    }, predictions


def read_pair(
    samples: SampleReader, record: Record
) -> tuple[tuple[Tensor, ...], list[tuple[str, int]]] | None:
    """Read the (3, height, width) pixels of both images, and the usable statements with their truth, 1 or 0.

    Returns `None` if nothing is usable.
    """
    bad: list[BadRecord] = []
    try:
        images = image_pair_of(record)
        statements = [one for one in statements_of(record, bad) if samples.has_tokens(one[0], record.key)]
        if statements:
            pixels = tuple(samples.predictor.pixels(open_image(image, key=record.key)) for image in images)
            return pixels, statements
    except BadRecord as error:
        samples.skipped.append(error)
    finally:
        samples.skipped.extend(bad)
    return None


HEADLINE = {
    "nlvr2_acc": "statements judged correctly",
    "nlvr2_consistency": "sentences judged correctly with all their image pairs",
}


def sections(predictions: Sequence[NLVR2Prediction]) -> list[Section]:
    """Return examples of statements, and of those judged wrong."""
    wrong = [one for one in predictions if not one.correct]
    return example_sections(
        predictions, wrong, example, "Is it true?", "Judged wrong", "✓ marks the annotated truth."
    )


def example(prediction: NLVR2Prediction) -> AnswerExample:
    """Show a statement with its two images and its probability."""
    p, truth = prediction.probability, bool(prediction.truth)
    return AnswerExample(
        [load_picture(image) for image in prediction.images],
        prediction.statement,
        [("true", p, truth), ("false", 1 - p, not truth)],
        correct=prediction.correct,
    )


MEASURE = Measure(evaluate_nlvr2, HEADLINE, sections)
