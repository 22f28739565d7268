"""What records hold besides concepts: questions with their answers, statements about one image or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from xvlm.records import BadRecord, ImageData, Record

T = TypeVar("T")

TRUTHS = {"true": 1, "false": 0, "1": 1, "0": 0}
DISAGREEMENT = "-"
"""Where annotators did not agree on a label (SNLI)."""


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        answers: what people answered; nothing where it is for the model to say.
        number: `question_id`, as it stands in the file.
    """

    text: str
    answers: tuple[str, ...] = ()
    number: Any = None


def questions_of(record: Record) -> list[Question]:
    """`question`, `answer` (a text or a list of them) and `question_id`; or a list of such as `questions`.

    Empty answers are left out.  Raises BadRecord where there is no question.
    """
    return [_question(one, record.key) for one in _several(record, "questions", "no question")]


def _question(fields: Mapping[str, Any], key: str) -> Question:
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRecord("no question", key, f"question is {question!r}")
    answers = fields.get("answer")
    several = answers if isinstance(answers, list | tuple) else [] if answers is None else [answers]
    if not all(isinstance(answer, str | int | float) for answer in several):
        expected = "expected a text, a number or a list of them"
        raise BadRecord("wrong type", key, f"answer is {answers!r}, {expected}")
    said = tuple(str(answer) for answer in several if str(answer).strip())
    return Question(question, said, fields.get("question_id"))


def _several(record: Record, name: str, reason: str) -> list[Mapping[str, Any]]:
    """The list of objects that `extra` holds under a name; without it `extra` itself, as the only one."""
    several = record.extra.get(name, [record.extra])
    if not isinstance(several, list) or not several or not all(isinstance(one, Mapping) for one in several):
        raise BadRecord(reason, record.key, f"{name} is {several!r}; it must be a list of objects")
    return several


def some_of(several: list[T], count: int, rng: np.random.Generator) -> list[T]:
    """`count` of them, drawn without repeats, in their order; all, if `count` is 0 or there are no more."""
    if not 0 < count < len(several):
        return several
    return [several[place] for place in sorted(rng.permutation(len(several))[:count])]


def statements_of(record: Record) -> list[tuple[str, int]]:
    """Each statement with its truth: `sentence` and `label`, or a list of such as `statements`.

    Raises BadRecord where something of one is missing.
    """
    several = _several(record, "statements", "no statement")
    return [(_statement(one, record.key), _truth(one, record.key)) for one in several]


@dataclass(frozen=True)
class Labelled:
    """A statement about one image, and which label it has.

    Attributes:
        label: its place among those that are allowed.
        number: `pairID`, as it stands in the file.
    """

    text: str
    label: int
    number: Any = None


def labelled_of(record: Record, labels: Sequence[str]) -> tuple[list[Labelled], list[BadRecord]]:
    """`sentence` and `label`, or a list of such as `statements`; and why some are left out.

    Raises BadRecord where none is left.
    """
    usable, bad = [], []
    for one in _several(record, "statements", "no statement"):
        try:
            usable.append(_labelled(one, labels, record.key))
        except BadRecord as error:
            bad.append(error)
    if not usable:
        raise bad[0]
    return usable, bad


def _labelled(fields: Mapping[str, Any], labels: Sequence[str], key: str) -> Labelled:
    text, label = _statement(fields, key), fields.get("label")
    if label == DISAGREEMENT:
        raise BadRecord("annotators disagree", key, f"label is {DISAGREEMENT!r}")
    name = label.strip().lower() if isinstance(label, str) else label
    if name not in labels:
        allowed = f"{', '.join(labels[:-1])} or {labels[-1]}"
        raise BadRecord("unknown label", key, f"label is {label!r}; it may be {allowed}")
    return Labelled(text, labels.index(name), fields.get("pairID"))


def _statement(fields: Mapping[str, Any], key: str) -> str:
    statement = fields.get("sentence")
    if not isinstance(statement, str) or not statement.strip():
        raise BadRecord("no statement", key, f"sentence is {statement!r}")
    return statement


def _truth(fields: Mapping[str, Any], key: str) -> int:
    """`label`, true or false in any spelling, as 1 or 0."""
    label = fields.get("label")
    truth = TRUTHS.get(str(label).lower())
    if truth is None:
        raise BadRecord("no truth", key, f"label is {label!r}; it may be True or False")
    return truth


def images_of(record: Record) -> tuple[ImageData, ImageData]:
    """The left and the right image.  Raises BadRecord unless there are two."""
    right = record.extra.get("right")
    if right is None:
        raise BadRecord("no second image", record.key, "images must name two")
    return record.image, right
