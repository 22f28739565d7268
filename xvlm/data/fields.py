"""What records hold besides concepts: questions with their answers, statements about one image or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from xvlm.data.json_text import check_unicode
from xvlm.data.short_repr import short_repr
from xvlm.records import DISAGREE, BadRecord, ImageData, Record

T = TypeVar("T")

ANSWER_FIELDS = ("answer", "answers", "multiple_choice_answer")
"""Where answers stand; the first one that a question has counts."""
_ABOUT_ANSWERS = ("type", "id", "confidence")  # ends of names that say something of an answer

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


def questions_of(record: Record, bad: list[BadRecord] | None = None) -> list[Question]:
    """`question`, its answers (see `answers_in`) and `question_id`; or a list of such as `questions`.

    Empty answers are left out.

    Args:
        bad: takes those of several questions that cannot be used; without it one such spoils the record.
    Raises:
        BadRecord: there is no question, or none is left.
    """
    return _usable(_several(record, "questions", "no question"), _question, record.key, bad)


def _usable(
    several: Sequence[Any],
    read: Callable[[Mapping[str, Any], str], T],
    key: str,
    bad: list[BadRecord] | None,
) -> list[T]:
    """What `read` makes of each; `bad` takes the others.  Raises BadRecord if nothing is left, or for the
    first one where there is no `bad`."""
    found, unusable = [], []
    for one in several:
        try:
            if not isinstance(one, Mapping):
                raise BadRecord("wrong type", key, f"found {short_repr(one)}, expected an object")
            check_unicode(one, key)
            found.append(read(one, key))
        except BadRecord as error:
            if bad is None:
                raise
            unusable.append(error)
    if unusable and not found:
        raise unusable[0]
    if bad is not None:
        bad += unusable
    return found


def _question(fields: Mapping[str, Any], key: str) -> Question:
    question = fields.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadRecord("no question", key, f"question is {short_repr(question)}")
    return Question(question, answers_in(fields, key), fields.get("question_id"))


def answers_in(fields: Mapping[str, Any], key: str = "") -> tuple[str, ...]:
    """What people answered: a text, a number, a list of them, or VQA's list of objects with `answer`.

    Raises BadRecord for anything else, and where there is no field of `ANSWER_FIELDS` but one that looks like
    it: its answers would be lost.
    """
    name = next((name for name in ANSWER_FIELDS if fields.get(name) is not None), None)
    if name is None:
        alike = [
            other for other in map(str, fields) if _looks_like_answers(other) and fields[other] is not None
        ]
        if alike:
            allowed = ", ".join(ANSWER_FIELDS)
            found = f"{alike[0][:40]} looks like the answers, which are read from {allowed}"
            raise BadRecord("unknown fields", key, found)
        return ()
    value = fields[name]
    if isinstance(value, list | tuple):
        texts = [one.get("answer") if isinstance(one, Mapping) else one for one in value]
    else:
        texts = [value]
    if not all(isinstance(text, str | int | float) for text in texts):
        expected = "expected a text, a number or a list of them"
        raise BadRecord("wrong type", key, f"{name} is {short_repr(value)}, {expected}")
    return tuple(str(text) for text in texts if str(text).strip())


def _looks_like_answers(name: str) -> bool:
    return (
        "answer" in name.lower() and name not in ANSWER_FIELDS and not name.lower().endswith(_ABOUT_ANSWERS)
    )


def _several(record: Record, name: str, reason: str) -> list[Any]:
    """The list of objects that `extra` holds under a name; without it `extra` itself, as the only one."""
    several = record.extra.get(name, [record.extra])
    if not isinstance(several, list) or not any(isinstance(one, Mapping) for one in several):
        found = f"{name} is {short_repr(several)}; it must be a list of objects"
        raise BadRecord(reason, record.key, found)
    return several


def some_of(several: list[T], count: int, rng: np.random.Generator) -> list[T]:
    """`count` of them, drawn without repeats, in their order; all, if `count` is 0 or there are no more."""
    if not 0 < count < len(several):
        return several
    return [several[place] for place in sorted(rng.permutation(len(several))[:count])]


def statements_of(record: Record, bad: list[BadRecord] | None = None) -> list[tuple[str, int]]:
    """Each statement with its truth: `sentence` and `label`, or a list of such as `statements`.

    Args:
        bad: takes those of several that cannot be used; without it one such spoils the record.
    Raises:
        BadRecord: something of a statement is missing, or none is left.
    """
    several = _several(record, "statements", "no statement")
    return _usable(several, lambda one, key: (_statement(one, key), _truth(one, key)), record.key, bad)


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
    bad: list[BadRecord] = []
    several = _several(record, "statements", "no statement")
    return _usable(several, lambda one, key: _labelled(one, labels, key), record.key, bad), bad


def _labelled(fields: Mapping[str, Any], labels: Sequence[str], key: str) -> Labelled:
    text, label = _statement(fields, key), fields.get("label")
    if label == DISAGREEMENT:
        raise BadRecord(DISAGREE, key, f"label is {DISAGREEMENT!r}")
    name = label.strip().lower() if isinstance(label, str) else label
    if name not in labels:
        allowed = f"{', '.join(labels[:-1])} or {labels[-1]}"
        raise BadRecord("unknown label", key, f"label is {short_repr(label)}; it may be {allowed}")
    return Labelled(text, labels.index(name), fields.get("pairID"))


def _statement(fields: Mapping[str, Any], key: str) -> str:
    statement = fields.get("sentence")
    if not isinstance(statement, str) or not statement.strip():
        raise BadRecord("no statement", key, f"sentence is {short_repr(statement)}")
    return statement


def _truth(fields: Mapping[str, Any], key: str) -> int:
    """`label`, true or false in any spelling, as 1 or 0."""
    label = fields.get("label")
    truth = TRUTHS.get(str(label).lower()) if isinstance(label, str | int) else None
    if truth is None:
        raise BadRecord("no truth", key, f"label is {short_repr(label)}; it may be True or False")
    return truth


def images_of(record: Record) -> tuple[ImageData, ImageData]:
    """The left and the right image.  Raises BadRecord unless there are two."""
    right = record.extra.get("right")
    if right is None:
        raise BadRecord("no second image", record.key, "images must name two")
    return record.image, right
