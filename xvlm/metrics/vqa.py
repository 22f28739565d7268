"""Answers to questions as the VQA challenge compares them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from xvlm.errors import InputError

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
RIGHT = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
}
"""Contractions that lack one apostrophe -> as they are written."""


def normalise_answer(answer: str) -> str:
    """The official normalisation: punctuation, number words, articles, contractions.

    A sign is deleted where a space stands beside it anywhere in the answer, or where the answer holds a
    number with commas; elsewhere it becomes a space.
    """
    answer = one_line(answer)
    has_number = re.search(r"\d,\d", answer) is not None
    found = answer
    for sign in PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        found = found.replace(sign, "" if beside_space or has_number else " ")
    found = re.sub(r"\.(?!\d)", "", found)
    words = [DIGITS.get(word, word) for word in found.lower().split()]
    return " ".join(RIGHT.get(word, word) for word in words if word not in ARTICLES)


def one_line(answer: str) -> str:
    """Line breaks and tabs become spaces, those around are left out."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def question_type(question: str) -> str:
    """The kind of a question, by its first two words ("how many", "what is")."""
    return " ".join(question.lower().split()[:2])


def commonest_answers(asked: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """What is most often answered to each type of question (`question_type`), under "" to any; of answers
    that are as frequent the one that comes first.

    Args:
        asked: questions with what people answered.
    Raises:
        InputError: nobody answered anything.
    """
    counts: dict[str, Counter[str]] = {"": Counter()}
    for question, people in asked:
        counts[""].update(people)
        counts.setdefault(question_type(question), Counter()).update(people)
    if not counts[""]:
        raise InputError("there is no commonest answer: nobody answered any question")
    return {kind: count.most_common(1)[0][0] for kind, count in counts.items() if count}


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """How right an answer is: a third for each of the other people who gave it, at most 1; the mean over all
    choices of the one who is left out (Antol et al. 2015).

    Where one person answered there are no others: it is right or wrong.  Where all agree, answers are
    compared as they are (official evaluation).

    Raises InputError if nobody answered.
    """
    if not people:
        raise InputError("an answer cannot be judged: nobody answered the question")
    if len(people) == 1:
        return float(normalise_answer(answer) == normalise_answer(people[0]))
    answer, people = one_line(answer), [one_line(one) for one in people]
    if len(set(people)) > 1:
        answer, people = normalise_answer(answer), [normalise_answer(one) for one in people]
    same = sum(one == answer for one in people)
    shares = [min(1.0, (same - (one == answer)) / 3) for one in people]
    return sum(shares) / len(people)
