"""Question answering: how many people would give the answer that the model gives?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xvlm import dist
from xvlm.data.fields import Question, questions_of
from xvlm.data.images import open_image
from xvlm.data.sources import Source, open_source
from xvlm.data.text import clean_question
from xvlm.errors import InputError
from xvlm.evaluate._read import Prediction, check_any, chunks, needs, records
from xvlm.jsonfile import read_json
from xvlm.metrics.vqa import commonest_answers, question_type, vqa_accuracy
from xvlm.predict import Answered, Predictor
from xvlm.ranges import PositiveInt
from xvlm.records import BadRecord, Record


@dataclass(frozen=True)
class QuestionPrediction(Prediction):
    """One question about one image.

    Attributes:
        question_id: see `named`.
        people: what people answered; of a test set nothing.
        score: probability of the answer, see `Answered`.
        best: the likeliest answers with their probabilities; of a written one itself.
        accuracy: see `vqa_accuracy`; `None` where nobody answered.
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
) -> tuple[dict[str, float], list[QuestionPrediction]]:
    """Every record is a question about an image, or holds several about it.

    Args:
        limit: use only the first so many records.
        answers: choose among these, or those in this file, a JSON list (published: 3,128 of them); without
            them answers are written freely.
        baseline: questions of training, named as `data`: what their commonest answer to each kind of question
            would reach here is measured too, as `vqa_commonest`.
        batch: records at a time.
    Returns:
        (metrics, predictions in the source's order); metrics only count where nobody answered.  `vqa_exact`,
        where every question has one answer: how often it is given letter for letter (published for VLUE).
    Raises:
        MissingPart: the model was not trained for it.
        InputError: there is nothing to measure; the message says why not.
    """
    needs(predictor, "answers")
    answers = answer_list(answers) if isinstance(answers, Path) else answers
    commonest = commonest_in(baseline) if baseline else {}
    bad: list[BadRecord] = []
    predictions: list[QuestionPrediction] = []
    for chunk in chunks(records(source, limit, bad, "questions"), batch):
        asked: list[tuple[Record, Question]] = []
        images: list[int] = []
        pixels: list[Tensor] = []
        for record in chunk:
            try:
                several = [question for question in named(record) if readable(question, record, bad)]
                if several:
                    pixels.append(predictor.pixels(open_image(record.image, key=record.key)))
            except BadRecord as error:
                bad.append(error)
                continue
            asked += [(record, question) for question in several]
            images += [len(pixels) - 1] * len(several)
        if not asked:
            continue
        texts = [question.text for _, question in asked]
        found = predictor.answer(predictor.encode_images(pixels), texts, images, answers)
        for (record, question), best in zip(asked, found, strict=True):
            people, (text, score) = question.answers, best[0]
            accuracy = vqa_accuracy(text, people) if people else None
            predictions.append(
                QuestionPrediction(
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
            )
    predictions, bad = dist.collected(predictions), dist.collected(bad)
    check_any(predictions, source, "question about an image", bad)
    counts = {"vqa_questions": float(len(predictions)), "vqa_bad_records": float(len(bad))}
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


def named(record: Record) -> list[Question]:
    """Its questions; one that has no `question_id` gets the record's key, and its place among several."""
    questions = questions_of(record)
    names = [record.key] if len(questions) == 1 else [f"{record.key}#{n}" for n in range(len(questions))]
    return [
        one if one.number is not None else replace(one, number=name)
        for one, name in zip(questions, names, strict=True)
    ]


def submission(predictions: Sequence[QuestionPrediction]) -> list[dict[str, Any]]:
    """What the VQA challenge's server takes."""
    return [{"question_id": one.question_id, "answer": one.answer} for one in predictions]


def readable(question: Question, record: Record, bad: list[BadRecord]) -> bool:
    """Whether cleaning leaves anything of the question; if not, it goes to `bad`."""
    if clean_question(question.text).strip():
        return True
    bad.append(BadRecord("no question", record.key, f"nothing is left of {question.text!r}"))
    return False


def answer_list(path: Path) -> list[str]:
    """A JSON list of texts.  Raises InputError for anything else, FileNotFoundError for no file."""
    answers: list[str] = read_json(path, list)
    if not answers or not all(isinstance(one, str) for one in answers):
        raise InputError(f"{path} must hold a JSON list of at least one text")
    return answers


evaluate = evaluate_questions
