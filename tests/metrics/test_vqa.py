"""VQA accuracy against the challenge's evaluation, written here once more from its definition."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from tests.published import golden
from xvlm.metrics.vqa import commonest_answers, normalise_answer, vqa_accuracy

SIGNS = list(';/[]"{}()=+\\_-><@`,?!')
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SPOKEN = {
    "dont": "don't",
    "isnt": "isn't",
    "oclock": "o'clock",
    "yall'd've": "y'all'd've",
    "twas": "'twas",
    "shes": "shes",
    "somebodys": "somebody's",
}
"""Contractions that the generated answers hold; one of them is none of the official list."""


def official_normalisation(answer: str) -> str:
    """Punctuation, then number words, articles and contractions word by word."""
    text = ""
    for letter in answer:
        near_space = any(pair in answer for pair in (f"{letter} ", f" {letter}"))
        sign = "" if near_space or re.search("[0-9],[0-9]", answer) else " "
        text += sign if letter in SIGNS else letter
    # Periods are looked at once the signs have gone.
    text = "".join(
        letter for place, letter in enumerate(text) if letter != "." or text[place + 1 : place + 2].isdigit()
    )
    words = []
    for word in text.lower().split():
        word = str(NUMBERS.index(word)) if word in NUMBERS else "0" if word == "none" else word
        if word not in ("a", "an", "the"):
            words.append(SPOKEN.get(word, word))
    return " ".join(words)


def official_accuracy(answer: str, people: list[str]) -> float:
    """The mean over all choices of all people but one of min(1, how many of them agree / 3)."""
    answer, people = " ".join(answer.split()), [" ".join(one.split()) for one in people]
    if len(set(people)) > 1:
        answer, people = official_normalisation(answer), [official_normalisation(one) for one in people]
    subsets = list(combinations(people, len(people) - 1))
    return sum(min(1.0, sum(one == answer for one in others) / 3) for others in subsets) / len(subsets)


BASES = [
    "red",
    "two dogs",
    "3",
    "1,000",
    "none",
    "the left",
    "dont know",
    "oclock",
    "yes",
    "a t-shirt",
    "2.5 m",
]
TWISTS = [
    "{}",
    "{}",
    "{}",
    "{}.",
    "{} !",
    "the {}",
    "{}?",
    " {}",
    "{}\n",
    "{}, red",
    "({})",
    "{}/no",
    "A {}",
    "{}; isnt",
    "twas {}",
    "yall'd've {}",
    "somebodys {}",
    "shes {}",
    "three {}",
    "{} no. 5",
    "{}.)5",
]


def variant(rng: np.random.Generator) -> str:
    text = TWISTS[rng.integers(len(TWISTS))].format(
        BASES[rng.integers(4 if rng.random() < 0.7 else len(BASES))]
    )
    return text.upper() if rng.random() < 0.1 else text


def test_agrees_with_the_official_evaluation() -> None:
    """600 questions with ten answers each; people agree on some, wholly on others, on nothing on others."""
    rng = np.random.default_rng(0)
    seen = []
    for number in range(600):
        answer = variant(rng)
        people = [variant(rng) for _ in range(10)]
        if number % 3 == 0:
            people = [BASES[number % 7]] * int(rng.integers(1, 11)) + people
            people = people[:10]
        if number % 5 == 0:
            answer = people[0]
        if number % 11 == 0:
            people = [people[0] + " " * int(rng.integers(2)) for _ in people]
        expected = official_accuracy(answer, people)
        assert vqa_accuracy(answer, people) == pytest.approx(expected, abs=1e-12), (answer, people)
        seen.append(expected)
    assert {0.0, 1.0} < {round(one, 6) for one in seen} and len(set(np.round(seen, 6))) >= 5


def test_this_normalisation_is_the_official_one() -> None:
    """What is written above, on the cases of the golden file; its contractions are all of the list."""
    for text, expected in golden("text_and_boxes.json", "vqa_answer_normalised"):
        if not any("'" in word for word in expected.split()):
            assert official_normalisation(" ".join(text.split(" ")).strip()) == expected, text


def test_generated_answers_are_normalised_alike() -> None:
    rng = np.random.default_rng(1)
    texts = {" ".join(variant(rng).split()) for _ in range(2000)}
    assert len(texts) > 200
    for text in texts:
        assert normalise_answer(text) == official_normalisation(text), text


def test_people_who_agree_are_taken_at_their_word() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0 and vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("two", ["two "] * 5 + ["two"] * 5) == 1
    assert vqa_accuracy("2", ["two"] * 9 + ["2"]) == 1


def test_nobody_answered() -> None:
    with pytest.raises(ValueError, match="nobody answered"):
        vqa_accuracy("red", [])


def test_commonest_answers() -> None:
    asked = [
        ("How many dogs?", ["two", "three", "two"]),
        ("how many red cats?", ["one"]),
        ("what is it?", ["a dog"]),
        ("what is that?", ["a cat", "a cat"]),
        ("who?", []),
        ("where is it?", ["here", "there"]),
    ]
    found = commonest_answers(asked)
    assert found == {"": "two", "how many": "two", "what is": "a cat", "where is": "here"}
    with pytest.raises(ValueError, match="nobody answered any question"):
        commonest_answers([("who?", [])])
