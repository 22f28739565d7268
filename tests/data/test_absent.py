"""Absent phrases of photographs: no text of a photograph speaks for them, and their English is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import photo
from xvlm.common.errors import InputError
from xvlm.data.sources.open import open_source
from xvlm.data.text.absent import AbsentPhrases, head, kind
from xvlm.records import BadRecord, Concept, Record

HEADS = {
    "a black and brown dog": "dog",
    "a group of children": "children",
    "the man in the red shirt": "man",
    "a set of stairs": "stairs",
    "two": "",
    "green": "",
    "": "",
}


@pytest.mark.parametrize("phrase", HEADS)
def test_head(phrase: str) -> None:
    assert head(phrase) == HEADS[phrase]


def test_kinds() -> None:
    assert kind("puppies") == kind("dogs") == kind("dog") != kind("cat")
    assert kind("lady") == kind("boys") == kind("person")
    assert kind("zebras") == kind("zebra") and kind("glass") == "glass"


PHRASES = [
    "a dog",
    "two cats",
    "a red car",
    "an orange kite",
    "the sky",
    "a boy",
    "blue jeans",
    "three boats",
]


def record(texts: list[str], captions: list[str] | None = None) -> Record:
    regions = [Concept((text,), (0.0, 0.0, 9.0, 9.0)) for text in texts]
    return Record("k", "k.jpg", (Concept(tuple(captions or ["nothing special"])), *regions))


def test_nothing_speaks_for_a_sampled_phrase() -> None:
    phrases = AbsentPhrases.of(PHRASES)
    assert "the sky" not in phrases.phrases and "blue jeans" not in phrases.phrases
    shown = record(["a white puppy", "a red bag"], ["A woman beside her truck ."])
    sampled = {text for seed in range(60) for text in phrases.sample(shown, 6, np.random.default_rng(seed))}
    # A dog is a puppy, a boy a person as a woman is, and a car a vehicle as a truck is.
    assert not sampled & {"a dog", "a boy", "a red car", "a white dog", "a red bag", "a white puppy"}
    assert {"two cats", "an orange kite", "three boats", "a white kite", "a red kite"} <= sampled
    recoloured = {text for text in sampled if text.endswith(("puppy", "bag"))}
    assert len(recoloured) > 6
    for text in recoloured:
        article, colour, _ = text.split()
        assert colour not in ("red", "white") and article == ("an" if colour[0] in "aeiou" else "a")


def test_a_noun_keeps_its_number_and_its_article() -> None:
    phrases = AbsentPhrases(("an owl", "cats"), ("owl", "cats"))
    sampled = {
        text
        for seed in range(40)
        for text in phrases.sample(record(["a hat"]), 4, np.random.default_rng(seed))
    }
    assert sampled == {"an owl", "cats"}
    assert phrases.sample(record(["an owl with cats"]), 4, np.random.default_rng(0)) == ()
    assert AbsentPhrases((), ()).sample(record(["a hat"]), 4, np.random.default_rng(0)) == ()


def write(folder: Path) -> Path:
    lines = []
    for number, text in enumerate(PHRASES):
        photo(40, 30, number).save(folder / f"{number}.jpg")
        elem = {"caption": [text], "bb": [2, 2, 20, 20]}
        lines.append({"image": f"{number}.jpg", "caption": [f"this is {text}"], "elems": [elem]})
    lines[1]["absent"] = ["a unicorn"]
    path = folder / "photos.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    return path


def test_scheme_adds_them_to_any_source(tmp_path: Path) -> None:
    """They depend on the key alone; a record that has some keeps them; a bad record stays bad."""
    path = write(tmp_path)
    plain, source = open_source(str(path)), open_source(f"absent:{path}?absent_texts=3")
    again = open_source(f"absent:{path}?absent_texts=3")
    assert (source.name, len(source), list(source.shards)) == (plain.name, len(plain), list(plain.shards))
    for index in range(len(PHRASES)):
        one = source[index]
        assert one.concepts == plain[index].concepts and one == again[index]
        if index == 1:
            assert one.absent_texts == ("a unicorn",)
        else:
            assert 0 < len(one.absent_texts) <= 3
            assert PHRASES[index] not in one.absent_texts
    with pytest.raises(BadRecord):
        source[len(PHRASES)]


@pytest.mark.parametrize("wrong", ["0", "-1", "many", ""])
def test_a_wrong_number_of_them(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InputError, match=r"absent_texts is .*; it must be a whole number from 1"):
        open_source(f"absent:{write(tmp_path)}?absent_texts={wrong}")
