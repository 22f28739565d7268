"""Captions are split into phrases that each say one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvlm.data.text.cleaning import clean_caption
from xvlm.data.text.phrases import DETERMINERS, PHRASE_STARTS, split_phrases


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A dog shakes its head near the shore.", ["a dog shakes its head", "near the shore"]),
        ("Two men, one in red , play", ["two men", "one in red", "play"]),
        ("A ball next to the two boys", ["a ball", "next to the two boys"]),
        ("a red ring", ["a red ring"]),
        ("Ein Hund läuft im Schnee", ["ein hund läuft im schnee"]),
        ("in the", []),
        ("...", []),
        ("", []),
    ],
)
def test_examples(text: str, phrases: list[str]) -> None:
    assert split_phrases(text) == phrases


WORDS = st.sampled_from([*sorted(PHRASE_STARTS)[:20], *sorted(DETERMINERS)[:10], "dog", "ball", "red"])


@given(st.lists(WORDS, max_size=20))
def test_phrases_are_parts_of_the_caption_in_order_and_none_is_without_content(words: list[str]) -> None:
    text = " ".join(words)
    phrases = split_phrases(text)
    content = ("dog", "ball", "red")
    found = [word for phrase in phrases for word in phrase.split()]
    assert [word for word in found if word in content] == [word for word in words if word in content]
    assert all(any(word in content for word in phrase.split()) for phrase in phrases)
    if phrases:
        assert " ".join(phrases) in clean_caption(text)
