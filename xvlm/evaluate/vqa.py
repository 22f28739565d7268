"""Question answering: how many people would give the answer that the model gives?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

from xvlm import dist
from xvlm.data.fields import Question, questions_of
from xvlm.data.sources import Source, open_source
from xvlm.errors import InputError
from xvlm.evaluate._read import (
    Photo,
    Prediction,
    batches,
    check_any,
    check_least,
    in_order,
    needs,
    note_losses,
    photos,
)
from xvlm.evaluate._skipped import Skipped
from xvlm.jsonfile import read_json
from xvlm.metrics.vqa import commonest_answers, question_type, vqa_accuracy
from xvlm.predict import Answered, Predictor
from xvlm.ranges import PositiveInt
from xvlm.records import BadRecord, Record, same_id


@dataclass(frozen=True)
class QuestionPrediction(Prediction):
    """One question about one image.

    Attributes:
        question_id: see `named`.
        people: what people answered; of a test set nothing.
        score: probability of the answer, see `Answered`.
        best: the likeliest answers with their probabilities; of a written one itself.
        accuracy: see `vqa_accuracy`, 0 where the model's score is no number; `None` where nobody answered.
    """

    question_id: Any
    question: str
    answer: str
    score: float
    people: tuple[str, ...]
    accuracy: float | None
    best: tuple[Answered, ...]


def evaluate_questions(
    predictor: Predictor,
    source: Source,
    limit: PositiveInt | None = None,
    answers: Path | Sequence[str] | None = None,
    baseline: str = "",
    batch: PositiveInt = 32,
    skipped: Skipped | None = None,
) -> tuple[dict[str, float], list[QuestionPrediction]]:
    """Every record is a question about an image, or holds several about it.

    Questions about the same image, wherever they stand, are asked on one encoding of it.

    Args:
        limit: use only the first so many records.
        answers: choose among these, or those in this file, a JSON list (published: 3,128 of them); without
            them answers are written freely.  One that is not in the vocabulary cannot be chosen, and is told.
        baseline: questions of training, named as `data`: what their commonest answer to each kind of question
            would reach here is measured too, as `vqa_commonest`.
        batch: questions at a time.
        skipped: gets what could not be used.
    Returns:
        (metrics, predictions in the source's order); metrics only count where nobody answered.  `vqa_exact`,
        where every question has one answer: how often it is given letter for letter (published for VLUE).
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    check_least(1, limit=limit, batch=batch)
    needs(predictor, "answers")
    answers = answer_list(answers) if isinstance(answers, Path) else answers
    commonest = commonest_in(baseline) if baseline else {}
    skipped = Skipped() if skipped is None else skipped
    if answers and not isinstance(answers, str):
        answers, unknown = predictor.reader.known_answers(answers)
        if dist.is_main():
            skipped.notes |= {"answer of the list is not in the vocabulary": unknown} if unknown else {}
    found: list[tuple[int, QuestionPrediction]] = []
    for group in batches(photos_with_questions(predictor, source, limit, skipped), batch, batch):
        asked = [(b, *one) for b, (_, several) in enumerate(group) for one in several]
        features = predictor.encode_images([photo.pixels for photo, _ in group])
        texts = [question.text for *_, question in asked]
        answered = predictor.answer(features, texts, [b for b, *_ in asked], answers)
        for (_, number, record, question), best in zip(asked, answered, strict=True):
            people, (text, score) = question.answers, best[0]
            accuracy = vqa_accuracy(text, people) * (not isnan(score)) if people else None
            prediction = QuestionPrediction(
                record.key,
                record.image,
                question.number,
                question.text,
                text,
                score,
                people,
                accuracy,
                tuple(best),
            )
            found.append((number, prediction))
    predictions = in_order(found)
    skipped.gather(len(predictions))
    check_any(predictions, source, "question about an image", skipped)
    counts = {"vqa_questions": float(len(predictions)), "vqa_bad_records": float(len(skipped))}
    judged = [one.accuracy for one in predictions if one.accuracy is not None]
    if not judged:
        return counts, predictions
    single = [one.answer.strip() == one.people[0].strip() for one in predictions if len(one.people) == 1]
    exact = {"vqa_exact": sum(single) / len(single)} if len(single) == len(judged) else {}
    labelled = {"vqa_acc": sum(judged) / len(judged), **exact, "vqa_labelled": float(len(judged))}
    if commonest:
        labelled["vqa_commonest"] = accuracy_of_commonest(commonest, predictions)
    return labelled | counts, predictions


def commonest_in(spec: str) -> dict[str, str]:
    """See `commonest_answers`; questions are read from where `open_source` finds them, without their images.

    Raises InputError if none has an answer.
    """
    source = open_source(spec)
    bad: list[BadRecord] = []
    asked: list[tuple[str, Sequence[str]]] = []
    for index in range(len(source)):
        try:
            asked += [(question.text, question.answers) for question in questions_of(source[index])]
        except BadRecord as error:
            bad.append(error)
    if not any(answers for _, answers in asked):
        raise InputError(f"{spec} holds no answered question; first problem: {bad[0] if bad else 'none'}")
    return commonest_answers(asked)


def accuracy_of_commonest(commonest: Mapping[str, str], predictions: Sequence[QuestionPrediction]) -> float:
    """How right the commonest answers are where people answered."""
    found = [
        vqa_accuracy(commonest.get(question_type(one.question), commonest[""]), one.people)
        for one in predictions
        if one.people
    ]
    return sum(found) / len(found)


def photos_with_questions(
    predictor: Predictor, source: Source, limit: int | None, skipped: Skipped
) -> Iterator[tuple[Photo, list[tuple[int, Record, Question]]]]:
    """Images with the questions about them, each with its record."""
    for photo in photos(predictor, source, limit, skipped, "questions", ids_of):
        yield (
            photo,
            [
                (number, record, question)
                for number, record in photo.records
                for question in usable_questions(predictor, record, skipped)
            ],
        )


def usable_questions(predictor: Predictor, record: Record, skipped: Skipped) -> Iterator[Question]:
    """The questions of a record that say something to the model; the others are skipped."""
    bad: list[BadRecord] = []
    try:
        questions = named(record, bad)
    except BadRecord as error:
        skipped.append(error)
        return
    skipped.extend(bad)
    for question in questions:
        try:
            encoded = predictor.reader.question(question.text)
        except BadRecord as error:
            skipped.append(BadRecord(error.reason, record.key, error.detail), [question.number])
            continue
        note_losses(encoded.unknown, encoded.cut, record.key, skipped)
        yield question


def named(record: Record, bad: list[BadRecord] | None = None) -> list[Question]:
    """Its questions; one that has no `question_id` gets the record's key, and its place among several.

    Args:
        bad: takes those of several that cannot be used.
    """
    questions = questions_of(record, bad)
    names = [record.key] if len(questions) == 1 else [f"{record.key}#{n}" for n in range(len(questions))]
    return [
        one if one.number is not None else replace(one, number=name)
        for one, name in zip(questions, names, strict=True)
    ]


def ids_of(record: Record) -> list[Any]:
    """The ids of its questions, as far as they can be read."""
    try:
        return [question.number for question in named(record, [])]
    except BadRecord:
        return []


def submission(predictions: Sequence[QuestionPrediction]) -> list[dict[str, Any]]:
    """What the VQA challenge's server takes: each question once."""
    once: dict[str, QuestionPrediction] = {}
    for one in predictions:
        once.setdefault(same_id(one.question_id), one)
    return [{"question_id": one.question_id, "answer": one.answer} for one in once.values()]


def answer_list(path: Path) -> list[str]:
    """A JSON list of texts.  Raises InputError for anything else, FileNotFoundError for no file."""
    answers: list[str] = read_json(path, list)
    if not answers or not all(isinstance(one, str) for one in answers):
        raise InputError(f"{path} must hold a JSON list of at least one text")
    return answers


evaluate = evaluate_questions
