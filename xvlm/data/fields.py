"""What records hold besides concepts: questions with their answers, statements about two images."""

from __future__ import annotations

from typing import Any

from xvlm.records import BadRecord, ImageData, Record

TRUTHS = {"true": 1, "false": 0}


def question_of(record: Record) -> str:
    """The question.  Raises BadRecord if there is none."""
    question = record.extra.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRecord("no question", record.key, f"question is {question!r}")
    return question


def answers_of(record: Record) -> list[str]:
    """What people answered: `answer`, a text or a list of them; empty texts are left out."""
    answers = record.extra.get("answer", [])
    answers = [answers] if isinstance(answers, str) else list(answers)
    return [answer for answer in answers if isinstance(answer, str) and answer.strip()]


def statement_of(record: Record) -> str:
    """`sentence`.  Raises BadRecord if there is none."""
    statement = record.extra.get("sentence")
    if not isinstance(statement, str) or not statement.strip():
        raise BadRecord("no statement", record.key, f"sentence is {statement!r}")
    return statement


def truth_of(record: Record) -> int:
    """`label`, true or false in any spelling, as 1 or 0.  Raises BadRecord for anything else."""
    label: Any = record.extra.get("label")
    truth = TRUTHS.get(str(label).lower())
    if truth is None:
        raise BadRecord("no truth", record.key, f"label is {label!r}; it may be True or False")
    return truth


def images_of(record: Record) -> tuple[ImageData, ImageData]:
    """The left and the right image.  Raises BadRecord unless there are two."""
    right = record.extra.get("right")
    if right is None:
        raise BadRecord("no second image", record.key, "images must name two")
    return record.image, right
