"""Noun phrases of captions, with their places in the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvlm.data.text.noun_phrases import noun_phrases

CASES = {
    "a man with a red bag next to two dogs": ["a man", "a red bag", "two dogs"],
    "A child in a pink dress is climbing up a set of stairs in an entry way .": [
        "A child", "a pink dress", "a set", "stairs", "an entry way",
    ],
    "Two dogs of different breeds looking at each other on the road .": [
        "Two dogs", "different breeds", "the road",
    ],
    "three people, a boy's hat and the left lion": ["three people", "a boy's hat", "the left lion"],
    "a climbing wall near the brick building": ["a climbing wall", "the brick building"],
    "the cups": ["the cups"],
    "a picture of a cup left of a plate": ["a cup", "a plate"],
    "the left of two cups, and a photo of them": ["the left", "two cups", "a photo"],
    "a photo on a wall": ["a photo", "a wall"],
    "dogs": ["dogs"],
    "it is there": [],
    "": [],
    " ... ": [],
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_phrases_of_captions(text: str) -> None:
    assert [text[start:end] for start, end in noun_phrases(text)] == CASES[text]


@given(st.text(max_size=80))
def test_spans_of_any_text(text: str) -> None:
    """Spans are in order, do not overlap, and are not blank."""
    last = 0
    for start, end in noun_phrases(text):
        assert last <= start < end <= len(text)
        assert text[start:end].strip()
        last = end
