"""Read the task fields of records: questions with answers, statements about one image or two.

A statement is a `sentence` with its `label`; `statements` is a list of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from xvlm.common.short_repr import short_repr
from xvlm.data.files.json_parser import check_unicode
from xvlm.records import DISAGREE, BadRecord, ImageData, Record

T = TypeVar("T")

ANSWER_FIELDS = ("answer", "answers", "multiple_choice_answer")
"""Names of fields with answers; the first one that a question has is read."""
_ABOUT_ANSWERS = ("type", "id", "confidence")  # last words of fields that describe an answer

TRUTH_VALUES = {"true": 1, "false": 0, "1": 1, "0": 0}
DISAGREEMENT = "-"
"""Label of a statement on which the annotators disagreed (SNLI)."""


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        answers: reference answers; empty for a test set.
        question_id: `question_id` of the file, unchanged.
    """

    text: str
    answers: tuple[str, ...] = ()
    question_id: Any = None


def questions_of(record: Record, bad: list[BadRecord] | None = None) -> list[Question]:
    """Return the questions of a record, without empty answers.

    A record has `question`, answers (see `answers_of`) and `question_id`, or `questions`, a list of these.

    Args:
        bad: takes the questions of a list that cannot be used; without it, one such question is an error.
    Raises:
        BadRecord: there is no question, or none is left.
    """
    return _read_usable(_objects(record, "questions", "no question"), _read_question, record.key, bad)


def _read_usable(
    objects: Sequence[Any],
    read: Callable[[Mapping[str, Any], str], T],
    key: str,
    bad: list[BadRecord] | None,
) -> list[T]:
    """Apply `read` to each object; `bad` takes the objects that cannot be used.

    Raises BadRecord if none is left, or, without `bad`, for the first object that cannot be used.
    """
    usable, unusable = [], []
    for item in objects:
        try:
            if not isinstance(item, Mapping):
                raise BadRecord("wrong type", key, f"found {short_repr(item)}, expected an object")
            check_unicode(item, key)
            usable.append(read(item, key))
        except BadRecord as error:
            if bad is None:
                raise
            unusable.append(error)
    if unusable and not usable:
        raise unusable[0]
    if bad is not None:
        bad += unusable
    return usable


def _read_question(fields: Mapping[str, Any], key: str) -> Question:
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRecord("no question", key, f"question is {short_repr(question)}")
    return Question(question, answers_of(fields, key), fields.get("question_id"))


def answers_of(fields: Mapping[str, Any], key: str = "") -> tuple[str, ...]:
    """Return the reference answers: a text, a number, a list of them, or VQA's list of objects with `answer`.

    Raises BadRecord for another type, and for a field with a similar name if there is no field of
    `ANSWER_FIELDS`, since its answers would be lost.
    """
    name = next((name for name in ANSWER_FIELDS if fields.get(name) is not None), None)
    if name is None:
        names = map(str, fields)
        similar = next((one for one in names if _resembles_answers(one) and fields[one] is not None), None)
        if similar is not None:
            allowed = ", ".join(ANSWER_FIELDS)
            detail = f"{similar[:40]} looks like the answers, which are read from {allowed}"
            raise BadRecord("unknown fields", key, detail)
        return ()
    value = fields[name]
    if isinstance(value, list | tuple):
        texts = [item.get("answer") if isinstance(item, Mapping) else item for item in value]
    else:
        texts = [value]
    if not all(isinstance(text, str | int | float) for text in texts):
        expected = "expected a text, a number or a list of them"
        raise BadRecord("wrong type", key, f"{name} is {short_repr(value)}, {expected}")
    return tuple(str(text) for text in texts if str(text).strip())


def _resembles_answers(name: str) -> bool:
    lower = name.lower()
    return "answer" in lower and name not in ANSWER_FIELDS and not lower.endswith(_ABOUT_ANSWERS)


def _objects(record: Record, name: str, reason: str) -> list[Any]:
    """Return the list of objects in a field of `extra`, or `extra` itself as the only object."""
    objects = record.extra.get(name, [record.extra])
    if not isinstance(objects, list) or not any(isinstance(item, Mapping) for item in objects):
        detail = f"{name} is {short_repr(objects)}; it must be a list of objects"
        raise BadRecord(reason, record.key, detail)
    return objects


def sample_subset(items: list[T], count: int, rng: np.random.Generator) -> list[T]:
    """Sample `count` items without replacement, in their order; return all if `count` is 0 or too large."""
    if not 0 < count < len(items):
        return items
    return [items[index] for index in sorted(rng.permutation(len(items))[:count])]


def statements_of(record: Record, bad: list[BadRecord] | None = None) -> list[tuple[str, int]]:
    """Return the statements of a record, each with its truth value, 1 or 0.

    Args:
        bad: takes the statements of a list that cannot be used; without it, one such statement is an error.
    Raises:
        BadRecord: a part of a statement is missing, or none is left.
    """
    objects = _objects(record, "statements", "no statement")
    return _read_usable(
        objects, lambda item, key: (_statement(item, key), _truth(item, key)), record.key, bad
    )


@dataclass(frozen=True)
class LabelledText:
    """A statement about one image, with its label.

    Attributes:
        label: index of the label among the allowed ones.
        pair_id: `pairID` of the file, unchanged.
    """

    text: str
    label: int
    pair_id: Any = None


def labelled_texts_of(record: Record, labels: Sequence[str]) -> tuple[list[LabelledText], list[BadRecord]]:
    """Return the labelled statements of a record, and the errors of those that cannot be used.

    Raises BadRecord if none is left.
    """
    bad: list[BadRecord] = []
    objects = _objects(record, "statements", "no statement")
    return _read_usable(objects, lambda item, key: _labelled_text(item, labels, key), record.key, bad), bad


def _labelled_text(fields: Mapping[str, Any], labels: Sequence[str], key: str) -> LabelledText:
    text, label = _statement(fields, key), fields.get("label")
    if label == DISAGREEMENT:
        raise BadRecord(DISAGREE, key, f"label is {DISAGREEMENT!r}")
    name = label.strip().lower() if isinstance(label, str) else label
    if name not in labels:
        allowed = f"{', '.join(labels[:-1])} or {labels[-1]}"
        raise BadRecord("unknown label", key, f"label is {short_repr(label)}; it may be {allowed}")
    return LabelledText(text, labels.index(name), fields.get("pairID"))


def _statement(fields: Mapping[str, Any], key: str) -> str:
    statement = fields.get("sentence")
    if not isinstance(statement, str) or not statement.strip():
        raise BadRecord("no statement", key, f"sentence is {short_repr(statement)}")
    return statement


def _truth(fields: Mapping[str, Any], key: str) -> int:
    """Return 1 or 0 for a `label` that is true or false in any spelling."""
    label = fields.get("label")
    truth = TRUTH_VALUES.get(str(label).lower()) if isinstance(label, str | int) else None
    if truth is None:
        raise BadRecord("no truth", key, f"label is {short_repr(label)}; it may be True or False")
    return truth


def image_pair_of(record: Record) -> tuple[ImageData, ImageData]:
    """Return the left and the right image.  Raises BadRecord unless there are two."""
    right = record.extra.get("right")
    if right is None:
        raise BadRecord("no second image", record.key, "images must name two")
    return record.image, right
