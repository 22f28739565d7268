"""Questions with the likeliest answers, and what people answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from xvlm.evaluate.vqa import QuestionPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.metrics.vqa import normalise_answer, question_type
from xvlm.report import AnswerExample, Section, Table

TILES = {
    "vqa_acc": "right by the VQA challenge's measure",
    "vqa_exact": "right letter for letter",
    "vqa_commonest": "right by the commonest answer to each kind of question",
}
"""Shares that stand at the top of the page."""

TYPES = 12
"""Kinds of question that are shown, the most frequent ones."""


def sections(found: Sequence[QuestionPrediction]) -> list[Section]:
    """Questions drawn blindly, more of those answered wrong, and how right each kind of question is."""
    wrong = [one for one in found if one.accuracy is not None and one.accuracy < 0.5]
    return [
        Section("What does it answer?", "Drawn blindly; a bar is a probability.", examples(found, 12)),
        Section("Answered wrong", "Drawn blindly from these.", examples(wrong, 12, seed=1)),
        Section("Kinds of question", "By their first two words.", by_type(found)),
    ]


def examples(found: Sequence[QuestionPrediction], count: int, seed: int = 0) -> list[AnswerExample]:
    """Some of them, drawn blindly."""
    return [example(one) for one in drawn(found, count, seed)]


def example(one: QuestionPrediction) -> AnswerExample:
    """One question; an answer is marked as right where anybody gave it."""
    given = {normalise_answer(answer) for answer in one.people}
    choices = [(text, share, normalise_answer(text) in given) for text, share in one.best]
    said = ", ".join(
        f"{answer} ({count})" if count > 1 else answer for answer, count in Counter(one.people).most_common()
    )
    right = None if one.accuracy is None else one.accuracy >= 0.5
    lines = [("people", said)] if said else []
    return AnswerExample([picture(one.image)], one.question, choices, lines, right)


def by_type(found: Sequence[QuestionPrediction]) -> list[Table]:
    """How right the model is at the most frequent kinds of question."""
    of_type: dict[str, list[float]] = {}
    for one in found:
        if one.accuracy is not None:
            of_type.setdefault(question_type(one.question), []).append(one.accuracy)
    most = sorted(of_type.items(), key=lambda item: -len(item[1]))[:TYPES]
    rows = [(kind, f"{len(right)}", f"{100 * sum(right) / len(right):.1f} %") for kind, right in most]
    return [Table(("kind", "questions", "right"), rows)] if rows else []
