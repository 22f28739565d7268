"""VQA accuracy and answer normalisation equal a second implementation, written from the definition."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from tests.published import golden
from xvlm.metrics.vqa import most_common_answers, normalize_answer, vqa_accuracy

MARKS = list(';/[]"{}()=+\\_-><@`,?!')
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
CONTRACTIONS = {
    "dont": "don't",
    "isnt": "isn't",
    "oclock": "o'clock",
    "yall'd've": "y'all'd've",
    "twas": "'twas",
    "shes": "shes",
    "somebodys": "somebody's",
}
"""Spellings of the contractions in the generated answers; "shes" is not in the official list."""


def official_normalisation(answer: str) -> str:
    """Normalise punctuation, then number words, articles and contractions word by word."""
    text = ""
    for letter in answer:
        near_space = any(pair in answer for pair in (f"{letter} ", f" {letter}"))
        replacement = "" if near_space or re.search("[0-9],[0-9]", answer) else " "
        text += replacement if letter in MARKS else letter
    # Periods are removed after the other punctuation.
    text = "".join(letter for i, letter in enumerate(text) if letter != "." or text[i + 1 : i + 2].isdigit())
    words = []
    for word in text.lower().split():
        word = str(NUMBERS.index(word)) if word in NUMBERS else "0" if word == "none" else word
        if word not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def official_accuracy(answer: str, references: list[str]) -> float:
    """Return the mean of min(1, matches / 3) over all subsets that leave one reference answer out."""
    answer, references = " ".join(answer.split()), [" ".join(one.split()) for one in references]
    if len(set(references)) > 1:
        answer, references = official_normalisation(answer), [official_normalisation(r) for r in references]
    subsets = list(combinations(references, len(references) - 1))
    return sum(min(1.0, sum(one == answer for one in others) / 3) for others in subsets) / len(subsets)


BASES = [
    "red", "two dogs", "3", "1,000", "none", "the left", "dont know", "oclock", "yes", "a t-shirt", "2.5 m",
]  # fmt: skip
TEMPLATES = [
    "{}", "{}", "{}", "{}.", "{} !", "the {}", "{}?", " {}", "{}\n", "{}, red", "({})", "{}/no", "A {}",
    "{}; isnt", "twas {}", "yall'd've {}", "somebodys {}", "shes {}", "three {}", "{} no. 5", "{}.)5",
]  # fmt: skip


def variant(rng: np.random.Generator) -> str:
    text = TEMPLATES[rng.integers(len(TEMPLATES))].format(
        BASES[rng.integers(4 if rng.random() < 0.7 else len(BASES))]
    )
    return text.upper() if rng.random() < 0.1 else text


def test_agrees_with_the_official_evaluation() -> None:
    """Compare 600 questions with ten reference answers, which agree on all, some or none of them."""
    rng = np.random.default_rng(0)
    accuracies = []
    for number in range(600):
        answer = variant(rng)
        references = [variant(rng) for _ in range(10)]
        if number % 3 == 0:
            references = [BASES[number % 7]] * int(rng.integers(1, 11)) + references
            references = references[:10]
        if number % 5 == 0:
            answer = references[0]
        if number % 11 == 0:
            references = [references[0] + " " * int(rng.integers(2)) for _ in references]
        expected = official_accuracy(answer, references)
        assert vqa_accuracy(answer, references) == pytest.approx(expected, abs=1e-12), (answer, references)
        accuracies.append(expected)
    rounded = {round(one, 6) for one in accuracies}
    assert {0.0, 1.0} < rounded and len(rounded) >= 5


def test_the_second_implementation_equals_the_golden_file() -> None:
    for text, expected in golden("text_and_boxes.json", "vqa_answer_normalised"):
        if not any("'" in word for word in expected.split()):
            assert official_normalisation(" ".join(text.split(" ")).strip()) == expected, text


def test_generated_answers_are_normalised_alike() -> None:
    rng = np.random.default_rng(1)
    texts = {" ".join(variant(rng).split()) for _ in range(2000)}
    assert len(texts) > 200
    for text in texts:
        assert normalize_answer(text) == official_normalisation(text), text


def test_references_that_agree_are_not_normalised() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0 and vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("two", ["two "] * 5 + ["two"] * 5) == 1
    assert vqa_accuracy("2", ["two"] * 9 + ["2"]) == 1


def test_no_reference_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no reference answer"):
        vqa_accuracy("red", [])


def test_most_common_answers() -> None:
    questions = [
        ("How many dogs?", ["two", "three", "two"]),
        ("how many red cats?", ["one"]),
        ("what is it?", ["a dog"]),
        ("what is that?", ["a cat", "a cat"]),
        ("who?", []),
        ("where is it?", ["here", "there"]),
    ]
    assert most_common_answers(questions) == {
        "": "two",
        "how many": "two",
        "what is": "a cat",
        "where is": "here",
    }
    with pytest.raises(ValueError, match="no question has a reference answer"):
        most_common_answers([("who?", [])])
