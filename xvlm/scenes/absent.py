"""Phrases that describe nothing in a scene: a true one with an attribute, a shape or a relation changed.

They are hard, since all of their other words fit, and certain, since the scene is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from xvlm.scenes.phrases import (
    ObjectDescriptions,
    describe_objects,
    plural_phrase,
    sample_descriptions,
    singular_phrase,
)
from xvlm.scenes.scene import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES, Description, Scene

AbsentKind = Literal["attribute", "noun", "relation", "anchor"]
Combinations = frozenset[tuple[str, str]]
_TRIES = 4
"""Attempts for each phrase; in a scene of many objects most changes describe another one."""


@dataclass(frozen=True)
class AbsentPhrase:
    """A text that describes nothing in a scene, and what was changed to make it so."""

    text: str
    kind: AbsentKind


def sample_absent(
    rng: random.Random, scene: Scene, combinations: Combinations, count: int
) -> list[AbsentPhrase]:
    """Sample up to `count` different phrases of all kinds that describe nothing in a scene.

    Args:
        combinations: (shape, colour) combinations that may be named.
    """
    described = describe_objects(scene)
    makers: tuple[Callable[..., AbsentPhrase | None], ...] = (
        _changed_attribute,
        _changed_noun,
        _changed_relation,
        _changed_anchor,
    )
    found: dict[str, AbsentPhrase] = {}
    for number in range(_TRIES * count):
        phrase = makers[number % len(makers)](rng, scene, described, combinations)
        if phrase is not None:
            found.setdefault(phrase.text, phrase)
        if len(found) == count:
            break
    return list(found.values())


def _changed_attribute(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions], combinations: Combinations
) -> AbsentPhrase | None:
    """Return "the small blue ring" of a scene whose small ring is red; sometimes in the plural."""
    words = rng.choice(_changes(rng, scene, described, combinations, noun=False) or [()])
    return AbsentPhrase(_text(rng, words), "attribute") if words else None


def _changed_noun(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions], combinations: Combinations
) -> AbsentPhrase | None:
    """Return "the small red star" of a scene whose small red thing is a ring; sometimes in the plural."""
    words = rng.choice(_changes(rng, scene, described, combinations, noun=True) or [()])
    return AbsentPhrase(_text(rng, words), "noun") if words else None


def _changed_relation(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions], combinations: Combinations
) -> AbsentPhrase | None:
    """Return "the ring left of the box" of a scene whose rings all are elsewhere."""
    index, anchor = rng.sample(range(len(scene.objects)), 2)
    own, other = described[index], described[anchor].unique
    heads = sample_descriptions(rng, [*own.unique, *own.ambiguous], 1)
    if not (heads and other):
        return None
    candidates = scene.matches(heads[0])
    relations = [
        relation
        for relation in RELATIONS
        # `is`, because an ambiguous relation (None) may well be seen as true.
        if anchor not in candidates
        and all(scene.relates(one, relation, anchor) is False for one in candidates)
    ]
    if not relations:
        return None
    words = sample_descriptions(rng, other, 1)[0]
    text = f"the {singular_phrase(heads[0])} {rng.choice(relations)} the {singular_phrase(words)}"
    return AbsentPhrase(text, "relation")


def _changed_anchor(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions], combinations: Combinations
) -> AbsentPhrase | None:
    """Return "the ring left of the blue box" of a scene that has a ring, but no blue box."""
    own = rng.choice(described)
    heads = sample_descriptions(rng, [*own.unique, *own.ambiguous], 1)
    noun = rng.random() < 0.5
    anchors = _changes(rng, scene, described, combinations, noun)
    if not (heads and anchors):
        return None
    relation, words = rng.choice(list(RELATIONS)), rng.choice(anchors)
    text = f"the {singular_phrase(heads[0])} {relation} the {singular_phrase(words)}"
    return AbsentPhrase(text, "anchor")


def _changes(
    rng: random.Random,
    scene: Scene,
    described: list[ObjectDescriptions],
    combinations: Combinations,
    noun: bool,
) -> list[Description]:
    """Return descriptions that match no object; each is that of an object with one word changed.

    Args:
        noun: whether that word is the shape, else an adjective.
    """
    own = rng.choice(described)
    short = [words for words in (*own.unique, *own.ambiguous) if len(words) <= 3 and words[-1] != "thing"]
    chosen = sample_descriptions(rng, short, 2)
    return [
        words
        for original in chosen
        for words in _with_one_word_changed(original, noun)
        if not scene.matches(words) and _is_allowed(words, combinations)
    ]


def _with_one_word_changed(words: Description, noun: bool) -> Iterator[Description]:
    for position, word in enumerate(words):
        choices = next(group for group in (SHAPES, COLOURS, SIZES, TEXTURES) if word in group)
        if (choices is SHAPES) == noun:
            for other in choices:
                if other != word:
                    yield (*words[:position], other, *words[position + 1 :])


def _is_allowed(words: Description, combinations: Combinations) -> bool:
    colour = next((word for word in words if word in COLOURS), None)
    return colour is None or (words[-1], colour) in combinations


def _text(rng: random.Random, words: Description) -> str:
    """Return "the red ring", or "the red rings", which is as absent."""
    return f"the {plural_phrase(words) if rng.random() < 0.25 else singular_phrase(words)}"
