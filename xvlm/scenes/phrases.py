"""Descriptions of objects, and phrases that refer to them by attributes, a relation or an extreme.

Every phrase has exactly one correct referent.  A relation or an extreme is used only where the attributes
match several objects, so that it must be understood to find the right one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from xvlm.scenes.scene import (
    COLOURS,
    EXTREMES,
    MIN_TRUE_GAP,
    RELATIONS,
    SHAPES,
    Appearance,
    Description,
    Scene,
)

PhraseKind = Literal["attribute", "relation", "extreme", "group"]

NUMBERS = ("zero", "one", "two", "three", "four", "five")
MIN_SIZE_RATIO = 1.35
"""Smallest ratio of radii at which an object is called the biggest or the smallest."""


@dataclass(frozen=True)
class Phrase:
    """A text and the objects that it refers to.

    Attributes:
        head: description that a relation or an extreme narrows down; empty for other kinds.
    """

    text: str
    kind: PhraseKind
    targets: frozenset[int]
    head: Description = ()


def to_plural(noun: str) -> str:
    """Return the plural of a shape or of "thing"."""
    return noun + ("es" if noun in ("box", "cross") else "s")


_SINGULARS = {to_plural(noun): noun for noun in (*SHAPES, "thing")}


def to_singular(word: str) -> str:
    """Return the shape or "thing" of a plural; return any other word unchanged."""
    return _SINGULARS.get(word, word)


def singular_phrase(description: Description) -> str:
    """Return "small red ring" for ("small", "red", "ring")."""
    return " ".join(description)


def plural_phrase(description: Description) -> str:
    """Return "small red rings" for ("small", "red", "ring")."""
    return " ".join((*description[:-1], to_plural(description[-1])))


def with_article(description: Description) -> str:
    """Return "an orange ring" for ("orange", "ring")."""
    return f"{'an' if description[0] == 'orange' else 'a'} {singular_phrase(description)}"


def all_descriptions(look: Appearance) -> list[Description]:
    """Return every description of an appearance: any of its adjectives, with its shape or with "thing"."""
    descriptions = []
    for size, texture, colour in product((look.size, None), (look.texture, None), (look.colour, None)):
        adjectives = tuple(word for word in (size, texture, colour) if word)
        descriptions.append((*adjectives, look.shape))
        if adjectives:
            descriptions.append((*adjectives, "thing"))
    return descriptions


@dataclass(frozen=True)
class ObjectDescriptions:
    """The descriptions of one object of a scene.

    Attributes:
        unique: descriptions that match this object only.
        ambiguous: descriptions with a shape or colour that match other objects too.
    """

    unique: list[Description]
    ambiguous: list[Description]

    def with_combination(self, look: Appearance) -> ObjectDescriptions:
        """Return only the descriptions that name both shape and colour."""
        return ObjectDescriptions(
            *(
                [description for description in descriptions if {*look.combination} <= {*description}]
                for descriptions in (self.unique, self.ambiguous)
            )
        )


def describe_objects(scene: Scene) -> list[ObjectDescriptions]:
    """Return the descriptions of each object of the scene."""
    return [
        ObjectDescriptions(
            [one for one in descriptions if len(scene.matches(one)) == 1],
            [one for one in descriptions if len(scene.matches(one)) > 1 and _has_shape_or_colour(one)],
        )
        for descriptions in (all_descriptions(item.appearance) for item in scene.objects)
    ]


def sample_descriptions(rng: random.Random, descriptions: list[Description], count: int) -> list[Description]:
    """Sample up to `count` different descriptions; those with a shape and few words are more likely."""
    keys = {
        words: rng.random() * (4 if words[-1] == "thing" else 1) * (1 + len(words)) for words in descriptions
    }
    return sorted(descriptions, key=keys.__getitem__)[:count]


def attribute_phrases(rng: random.Random, unique: list[Description], index: int, count: int) -> list[Phrase]:
    """Return phrases like "the small red ring", from descriptions that match object `index` only."""
    target = frozenset((index,))
    return [
        Phrase(f"the {singular_phrase(words)}", "attribute", target)
        for words in sample_descriptions(rng, unique, count)
    ]


def relation_phrases(
    rng: random.Random,
    scene: Scene,
    ambiguous: list[Description],
    described: list[ObjectDescriptions],
    index: int,
    count: int,
) -> Iterator[Phrase]:
    """Yield phrases like "the red ring left of the striped box": several red rings, but one striped box."""
    for head in sample_descriptions(rng, ambiguous, count):
        rivals = scene.matches(head)
        choices = [
            (anchor, relation)
            for anchor in range(len(scene.objects))
            if anchor not in rivals and described[anchor].unique
            for relation in RELATIONS
            if _only_one_relates(scene, index, rivals, relation, anchor)
        ]
        if choices:
            anchor, relation = rng.choice(choices)
            anchor_words = sample_descriptions(rng, described[anchor].unique, 1)[0]
            text = f"the {singular_phrase(head)} {relation} the {singular_phrase(anchor_words)}"
            yield Phrase(text, "relation", frozenset((index,)), head)


def extreme_phrases(
    rng: random.Random, scene: Scene, ambiguous: list[Description], index: int, count: int
) -> Iterator[Phrase]:
    """Yield phrases like "the red ring furthest left", "the lowest star" or "the biggest ring"."""
    for head in sample_descriptions(rng, ambiguous, count):
        rivals = scene.matches(head) - {index}
        texts = [text for text, holds in _extremes(scene, index, rivals, head) if holds]
        if texts:
            yield Phrase(rng.choice(texts), "extreme", frozenset((index,)), head)


def group_phrases(rng: random.Random, scene: Scene, count: int) -> Iterator[Phrase]:
    """Yield phrases like "the two stars" or "both blue things" for two or more objects of one description."""
    heads = {
        words for described in describe_objects(scene) for words in described.ambiguous if len(words) <= 2
    }
    for words in sample_descriptions(rng, sorted(heads), count):
        targets, noun = scene.matches(words), plural_phrase(words)
        texts = [f"the {NUMBERS[len(targets)]} {noun}", f"the {noun}"]
        if len(targets) == 2:
            texts.append(f"both {noun}")
        yield Phrase(rng.choice(texts), "group", targets)


def label_phrases(scene: Scene, index: int) -> Iterator[Phrase]:
    """Yield the bare shape of an object ("ring"), if it is the only one of its shape."""
    shape = scene.objects[index].appearance.shape
    if len(scene.matches((shape,))) == 1:
        yield Phrase(shape, "attribute", frozenset((index,)))


def _has_shape_or_colour(words: Description) -> bool:
    return words[-1] != "thing" or any(word in COLOURS for word in words)


def _only_one_relates(scene: Scene, index: int, rivals: Iterable[int], relation: str, anchor: int) -> bool:
    # `is`, because an ambiguous relation (None) of a rival makes the phrase ambiguous.
    return all(scene.relates(rival, relation, anchor) is (rival == index) for rival in rivals)


def _extremes(
    scene: Scene, index: int, rivals: frozenset[int], head: Description
) -> Iterator[tuple[str, bool]]:
    noun = singular_phrase(head)
    centres = scene.centres
    for extreme, (axis, sign) in EXTREMES.items():
        holds = all(sign * (centres[index][axis] - centres[rival][axis]) >= MIN_TRUE_GAP for rival in rivals)
        yield f"the {noun} {extreme}" if extreme.startswith("furthest") else f"the {extreme} {noun}", holds
    if head[0] in ("small", "large"):  # "the biggest small ring" would contradict itself
        return
    radius = scene.objects[index].radius
    radii = [scene.objects[rival].radius for rival in rivals]
    yield f"the biggest {noun}", radius >= MIN_SIZE_RATIO * max(radii)
    yield f"the smallest {noun}", radius * MIN_SIZE_RATIO <= min(radii)
