"""VQA accuracy and answer normalisation of the VQA challenge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from xvlm.common.errors import InputError

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
_NUMBERS = "zero one two three four five six seven eight nine ten"
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTIONS.split()
    for index, letter in enumerate(word)
    if letter == "'"
}
"""Correct spelling of each contraction that lacks one apostrophe."""


def normalize_answer(answer: str) -> str:
    """Normalise an answer as the official evaluation does: punctuation, number words, articles, contractions.

    A punctuation mark is deleted if a space stands beside it anywhere in the answer, or if the answer holds a
    number with commas; otherwise it becomes a space.
    """
    answer = strip_line_breaks(answer)
    has_number = re.search(r"\d,\d", answer) is not None
    text = answer
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or has_number else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def strip_line_breaks(answer: str) -> str:
    """Replace line breaks and tabs by spaces, and strip the ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def question_type(question: str) -> str:
    """Return the first two words of a question in lower case ("how many", "what is")."""
    return " ".join(question.lower().split()[:2])


def most_common_answers(questions: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the most common answer to each type of question (`question_type`), and under "" to any type.

    Of equally common answers, the first one is returned.

    Args:
        questions: questions with their reference answers.
    Raises:
        InputError: no question has an answer.
    """
    counts: dict[str, Counter[str]] = {"": Counter()}
    for question, answers in questions:
        counts[""].update(answers)
        counts.setdefault(question_type(question), Counter()).update(answers)
    if not counts[""]:
        raise InputError("there is no most common answer: no question has a reference answer")
    return {kind: count.most_common(1)[0][0] for kind, count in counts.items() if count}


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the VQA accuracy of an answer (Antol et al. 2015).

    It is the mean of min(1, matches among the others / 3) over all choices of one reference to leave out.
    A single reference answer is compared directly.  If all reference answers agree, nothing is normalised
    (official evaluation).

    Raises:
        InputError: there is no reference answer.
    """
    if not references:
        raise InputError("the accuracy of an answer is undefined: the question has no reference answer")
    if len(references) == 1:
        return float(normalize_answer(answer) == normalize_answer(references[0]))
    answer, references = strip_line_breaks(answer), [strip_line_breaks(one) for one in references]
    if len(set(references)) > 1:
        answer, references = normalize_answer(answer), [normalize_answer(one) for one in references]
    matches = sum(one == answer for one in references)
    scores = [min(1.0, (matches - (one == answer)) / 3) for one in references]
    return sum(scores) / len(references)
