"""Phrases that describe nothing in a scene: a true one with an attribute, a shape or a relation changed.

They are hard, since all of their other words fit, and certain, since the scene is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xvlm.scenes.phrases import (
    ObjectDescriptions,
    describe_objects,
    plural_phrase,
    sample_descriptions,
    singular_phrase,
)
from xvlm.scenes.scene import COLOURS, EXTREMES, RELATIONS, SHAPES, SIZES, TEXTURES, Description, Scene

AbsentKind = Literal["attribute", "noun", "relation", "anchor"]
Combinations = frozenset[tuple[str, str]]
_FORMS = {"plain": 45, "label": 7, "group": 18, "extreme": 12, "relation": 9, "anchor": 9}
"""Sampling weight of each form of a phrase, about that among true ones: the form alone must tell nothing."""
_TRIES = 6
"""Attempts for each phrase; in a scene of many objects most changes describe another one."""
_GROUPS = ("the", "the two", "the three", "both")


@dataclass(frozen=True)
class AbsentPhrase:
    """A text that describes nothing in a scene, and what was changed to make it so."""

    text: str
    kind: AbsentKind


def sample_absent(
    rng: random.Random, scene: Scene, combinations: Combinations, count: int
) -> list[AbsentPhrase]:
    """Sample up to `count` different phrases that describe nothing in a scene.

    Args:
        combinations: (shape, colour) combinations that may be named.
    """
    described = describe_objects(scene)
    found: dict[str, AbsentPhrase] = {}
    for _ in range(_TRIES * count):
        form = rng.choices(tuple(_FORMS), tuple(_FORMS.values()))[0]
        if form == "relation":
            phrase = _changed_relation(rng, scene, described)
        elif form == "anchor":
            phrase = _changed_anchor(rng, scene, described, combinations)
        else:
            phrase = _changed_description(rng, scene, described, combinations, form)
        if phrase is not None:
            found.setdefault(phrase.text, phrase)
        if len(found) == count:
            break
    return list(found.values())


def _changed_description(
    rng: random.Random,
    scene: Scene,
    described: list[ObjectDescriptions],
    combinations: Combinations,
    form: str,
) -> AbsentPhrase | None:
    """Return "the small blue ring" or "the small red star" of a scene whose small red thing is a ring.

    Args:
        form: "plain"; "label" for a bare shape; "group" for a plural; "extreme" for "the lowest star".
    """
    if form == "label":
        absent = [shape for shape in SHAPES if not scene.matches((shape,))]
        return AbsentPhrase(rng.choice(absent), "noun") if absent else None
    noun = rng.random() < 0.5
    choices = _changes(rng, scene, described, combinations, noun)
    if not choices:
        return None
    words = rng.choice(choices)
    text = f"the {singular_phrase(words)}"
    if form == "group":
        text = f"{rng.choice(_GROUPS)} {plural_phrase(words)}"
    elif form == "extreme":
        extreme = rng.choice((*EXTREMES, "biggest", "smallest"))
        is_after = extreme.startswith("furthest")
        text = f"{text} {extreme}" if is_after else f"the {extreme} {singular_phrase(words)}"
    return AbsentPhrase(text, "noun" if noun else "attribute")


def _changed_relation(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions]
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
    anchors = _changes(rng, scene, described, combinations, noun=rng.random() < 0.5)
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
    short = [words for words in (*own.unique, *own.ambiguous) if len(words) <= 3]
    chosen = sample_descriptions(rng, short, 3)
    return [
        words
        for original in chosen
        for words in _with_one_word_changed(original, noun)
        if not scene.matches(words) and _is_allowed(words, combinations)
    ]


def _with_one_word_changed(words: Description, noun: bool) -> Iterator[Description]:
    for position, word in enumerate(words):
        choices = next((group for group in (SHAPES, COLOURS, SIZES, TEXTURES) if word in group), ())
        if (choices is SHAPES) == noun:
            for other in choices:
                if other != word:
                    yield (*words[:position], other, *words[position + 1 :])


def _is_allowed(words: Description, combinations: Combinations) -> bool:
    colour = next((word for word in words if word in COLOURS), None)
    return colour is None or words[-1] == "thing" or (words[-1], colour) in combinations
