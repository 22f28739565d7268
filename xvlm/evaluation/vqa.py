"""Visual question answering: VQA accuracy of the answers (Antol et al. 2015)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.common.ranges import PositiveInt, checked
from xvlm.data.images.decode import ImageFile
from xvlm.data.sources.open import open_source
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import Question, questions_of
from xvlm.evaluation.common.measure import Measure, Prediction, example_sections, percent
from xvlm.evaluation.common.queries import batches
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.common.skipped import SkippedSamples
from xvlm.inference.answering import Answer, answer_questions
from xvlm.inference.model import InferenceModel
from xvlm.metrics.vqa import most_common_answers, normalize_answer, question_type, vqa_accuracy
from xvlm.records import BadRecord, Record, normalize_id
from xvlm.reports import AnswerExample, Section, Table
from xvlm.reports.pictures import load_picture


@dataclass(frozen=True)
class VQAPrediction(Prediction):
    """The answer to a question.

    Attributes:
        question_id: see `questions_with_ids`.
        answer: the most probable answer.
        score: its probability, see `Answer`.
        references: answers of annotators; empty in a test set.
        accuracy: VQA accuracy, 0 if the score is NaN; `None` without references.
        top_answers: the most probable answers; only the answer itself if it is generated.
    """

    question_id: Any
    question: str
    answer: str
    score: float
    references: tuple[str, ...]
    accuracy: float | None
    top_answers: tuple[Answer, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; in files, references are `people` and top answers are `best`."""
        names = {"references": "people", "top_answers": "best"}
        return {names.get(name, name): value for name, value in super().to_json().items()}


@checked
def evaluate_vqa(
    predictor: InferenceModel,
    source: Source,
    limit: PositiveInt | None = None,
    answers: Path | Sequence[str] | None = None,
    baseline: str = "",
    batch_size: PositiveInt = 32,
    skipped: SkippedSamples | None = None,
) -> tuple[dict[str, float], list[VQAPrediction]]:
    """Evaluate visual question answering; a record holds an image and one or more questions.

    Args:
        limit: number of records; by default all.
        answers: JSON file with the list of candidate answers (published: 3,128 of them); without it, answers
            are generated.  Candidates that are not in the vocabulary are left out.
        baseline: training questions, named like `data`; `vqa_commonest` is then the accuracy of their most
            common answer to each type of question.
        batch_size: questions in a batch.
    Returns:
        metrics, and predictions in the order of the source.  Without reference answers, the metrics are only
        counts.  `vqa_exact`, if every question has one reference answer, is the fraction of answers that are
        equal to it (published for VLUE).
    Raises MissingHead if the model has no answer decoder, InputError if there is no question.
    """
    samples = SampleReader(predictor, source, limit, skipped, "vqa_decoder")
    answers = read_answers(answers) if isinstance(answers, Path) else answers
    baseline_answers = read_most_common_answers(baseline) if baseline else {}
    if answers and not isinstance(answers, str):
        answers, unknown = predictor.reader.split_known_answers(answers)
        if unknown and distributed.is_main():
            samples.skipped.notes["answer of the list is not in the vocabulary"] = unknown
    indexed: list[tuple[int, VQAPrediction]] = []
    images = samples.queries("questions", partial(usable_questions, samples), question_ids)
    for batch in batches(images, batch_size, batch_size):
        features = predictor.encode_images(batch.pixels)
        texts = [question.text for question in batch.contents]
        answered = answer_questions(predictor, features, texts, batch.image_index, answers)
        for query, top_answers in zip(batch.queries, answered, strict=True):
            question, (text, score) = query.content, top_answers[0]
            references = question.answers
            prediction = VQAPrediction(
                query.record.key,
                query.record.image,
                question.question_id,
                question.text,
                text,
                score,
                references,
                accuracy=vqa_accuracy(text, references) * (not isnan(score)) if references else None,
                top_answers=tuple(top_answers),
            )
            indexed.append((query.index, prediction))
    predictions = samples.gather(indexed, "question about an image")
    counts = {"vqa_questions": float(len(predictions)), "vqa_skipped": float(len(samples.skipped))}
    return {**accuracies(predictions, baseline_answers), **counts}, predictions


def accuracies(predictions: Sequence[VQAPrediction], baseline_answers: Mapping[str, str]) -> dict[str, float]:
    """Return the metrics of the questions with reference answers; none if there is no such question.

    Args:
        baseline_answers: see `most_common_answers`; if it is empty, the baseline is left out.
    """
    labelled = [one for one in predictions if one.accuracy is not None]
    if not labelled:
        return {}
    metrics = {"vqa_acc": sum(one.accuracy or 0.0 for one in labelled) / len(labelled)}
    if all(len(one.references) == 1 for one in labelled):
        exact = [one.answer.strip() == one.references[0].strip() for one in labelled]
        metrics["vqa_exact"] = sum(exact) / len(exact)
    metrics["vqa_labelled"] = float(len(labelled))
    if baseline_answers:
        baseline = [
            vqa_accuracy(
                baseline_answers.get(question_type(one.question), baseline_answers[""]), one.references
            )
            for one in labelled
        ]
        metrics["vqa_commonest"] = sum(baseline) / len(baseline)
    return metrics


def read_most_common_answers(spec: str) -> dict[str, str]:
    """Return the most common answers to the questions of a source, by type (see `most_common_answers`).

    Args:
        spec: name of the source, see `open_source`; its images are not read.
    Raises:
        InputError: no question has an answer.
    """
    source = open_source(spec)
    bad: list[BadRecord] = []
    questions: list[tuple[str, Sequence[str]]] = []
    for index in range(len(source)):
        try:
            questions += [(question.text, question.answers) for question in questions_of(source[index])]
        except BadRecord as error:
            bad.append(error)
    if not any(answers for _, answers in questions):
        raise InputError(f"{spec} holds no answered question; first problem: {bad[0] if bad else 'none'}")
    return most_common_answers(questions)


def usable_questions(samples: SampleReader, record: Record, file: ImageFile) -> Iterator[Question]:
    """Yield the questions of a record that have tokens; skip the others."""
    bad: list[BadRecord] = []
    try:
        questions = questions_with_ids(record, bad)
    except BadRecord as error:
        samples.skipped.append(error)
        return
    samples.skipped.extend(bad)
    tokenize = samples.predictor.reader.encode_question
    for question in questions:
        if samples.encode(tokenize, question.text, record.key, [question.question_id]):
            yield question


def questions_with_ids(record: Record, bad: list[BadRecord]) -> list[Question]:
    """Return the questions of a record; one without an id gets the record's key, and its index if they are
    several.

    Args:
        bad: receives those of several questions that cannot be used.
    """
    questions = questions_of(record, bad)
    ids = [record.key] if len(questions) == 1 else [f"{record.key}#{n}" for n in range(len(questions))]
    return [
        question if question.question_id is not None else replace(question, question_id=question_id)
        for question, question_id in zip(questions, ids, strict=True)
    ]


def question_ids(record: Record) -> list[Any]:
    """Return the ids of a record's questions, as far as they can be read."""
    try:
        return [question.question_id for question in questions_with_ids(record, [])]
    except BadRecord:
        return []


def submission(predictions: Sequence[VQAPrediction]) -> list[dict[str, Any]]:
    """Return the file that the VQA challenge's server takes, with each question once."""
    first: dict[str, VQAPrediction] = {}
    for one in predictions:
        first.setdefault(normalize_id(one.question_id), one)
    return [{"question_id": one.question_id, "answer": one.answer} for one in first.values()]


def read_answers(path: Path) -> list[str]:
    """Read a JSON list of texts.

    Raises InputError if it is something else, FileNotFoundError if there is no file.
    """
    answers: list[str] = read_json(path, list)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{path} must hold a JSON list of at least one text")
    return answers


HEADLINE = {
    "vqa_acc": "VQA accuracy",
    "vqa_exact": "exactly equal to the reference answer",
    "vqa_commonest": "accuracy of the most common answer to each type of question",
}
NUM_TYPES = 12
"""Number of question types in the report, the most frequent ones."""


def sections(predictions: Sequence[VQAPrediction]) -> list[Section]:
    """Return examples of questions, and of those answered wrong, and the accuracy by type of question."""
    wrong = [one for one in predictions if one.accuracy is not None and one.accuracy < 0.5]
    legend = "A bar is a probability."
    return [
        *example_sections(predictions, wrong, example, "What does it answer?", "Answered wrong", legend),
        Section("Types of question", "A type is the first two words.", accuracy_by_type(predictions)),
    ]


def example(prediction: VQAPrediction) -> AnswerExample:
    """Show a question with its top answers; those that an annotator gave are marked as correct."""
    references = {normalize_answer(answer) for answer in prediction.references}
    counts = Counter(prediction.references).most_common()
    annotated = ", ".join(f"{answer} ({count})" if count > 1 else answer for answer, count in counts)
    return AnswerExample(
        [load_picture(prediction.image)],
        prediction.question,
        [(text, score, normalize_answer(text) in references) for text, score in prediction.top_answers],
        [("annotators", annotated)] if annotated else [],
        correct=None if prediction.accuracy is None else prediction.accuracy >= 0.5,
    )


def accuracy_by_type(predictions: Sequence[VQAPrediction]) -> list[Table]:
    """Return a table of the accuracy on the most frequent types of question."""
    accuracies_of: dict[str, list[float]] = {}
    for one in predictions:
        if one.accuracy is not None:
            accuracies_of.setdefault(question_type(one.question), []).append(one.accuracy)
    frequent = sorted(accuracies_of.items(), key=lambda item: -len(item[1]))[:NUM_TYPES]
    rows = [(kind, f"{len(values)}", percent(sum(values) / len(values))) for kind, values in frequent]
    return [Table(("type", "questions", "accuracy"), rows)] if rows else []


MEASURE = Measure(evaluate_vqa, HEADLINE, sections, submission=submission)
