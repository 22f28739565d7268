"""Phrases that point at things in a scene: by attributes, by a relation, by an extreme, as a group.

Every phrase made here has exactly one correct target.  A relation or an extreme is used only where the
attributes alone fit several things, so that it must be understood to find the right one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from xvlm.data.scenes.world import CLEARLY, COLOURS, EXTREMES, RELATIONS, SHAPES, Look, Scene, Words

Kind = Literal["attribute", "relation", "extreme", "group"]

NUMBERS = ("zero", "one", "two", "three", "four", "five")
BIGGER = 1.35
"""A thing is the biggest when its radius is this many times that of every other one."""


@dataclass(frozen=True)
class Phrase:
    """A text and the things it means."""

    text: str
    kind: Kind
    targets: frozenset[int]


def plural(noun: str) -> str:
    """The plural of a shape or of "thing"."""
    return noun + ("es" if noun in ("box", "cross") else "s")


def say(words: Words) -> str:
    """("small", "red", "ring") -> "small red ring"."""
    return " ".join(words)


def say_many(words: Words) -> str:
    """("small", "red", "ring") -> "small red rings"."""
    return " ".join((*words[:-1], plural(words[-1])))


def with_article(words: Words) -> str:
    """("orange", "ring") -> "an orange ring"."""
    return f"{'an' if words[0] == 'orange' else 'a'} {say(words)}"


def descriptions(look: Look) -> list[Words]:
    """Every description that fits a look: any of its adjectives, with its shape or with "thing"."""
    found = []
    for size, texture, colour in product((look.size, None), (look.texture, None), (look.colour, None)):
        adjectives = tuple(word for word in (size, texture, colour) if word)
        found.append((*adjectives, look.shape))
        if adjectives:
            found.append((*adjectives, "thing"))
    return found


@dataclass(frozen=True)
class Descriptions:
    """The descriptions of one thing of a scene.

    Attributes:
        unique: they fit this thing alone.
        heads: they fit others too, so that a relation must tell them apart; each says shape or colour.
    """

    unique: list[Words]
    heads: list[Words]

    def naming(self, look: Look) -> Descriptions:
        """Those that say the shape and the colour."""
        kept = (
            [words for words in choices if {*look.combination} <= {*words}]
            for choices in (self.unique, self.heads)
        )
        return Descriptions(*kept)


def describe(scene: Scene) -> list[Descriptions]:
    """The descriptions of each thing of the scene."""
    return [
        Descriptions(
            [words for words in fitting if len(scene.fitting(words)) == 1],
            [words for words in fitting if len(scene.fitting(words)) > 1 and _says_shape_or_colour(words)],
        )
        for fitting in (descriptions(thing.look) for thing in scene.things)
    ]


def pick(rng: random.Random, choices: list[Words], most: int) -> list[Words]:
    """Up to `most` different descriptions; such with a shape and few words are likelier."""
    keys = {words: rng.random() * (4 if words[-1] == "thing" else 1) * (1 + len(words)) for words in choices}
    return sorted(choices, key=keys.__getitem__)[:most]


def attribute_phrases(rng: random.Random, unique: list[Words], index: int, most: int) -> list[Phrase]:
    """ "the small red ring", from descriptions that fit thing `index` alone."""
    target = frozenset((index,))
    return [Phrase(f"the {say(words)}", "attribute", target) for words in pick(rng, unique, most)]


def relation_phrases(
    rng: random.Random,
    scene: Scene,
    heads: list[Words],
    described: list[Descriptions],
    index: int,
    most: int,
) -> Iterator[Phrase]:
    """ "the red ring left of the striped box": one of several red rings is left of the only such box."""
    for head in pick(rng, heads, most):
        rivals = scene.fitting(head)
        places = [
            (anchor, relation)
            for anchor in range(len(scene.things))
            if anchor not in rivals and described[anchor].unique
            for relation in RELATIONS
            if _only_one_relates(scene, index, rivals, relation, anchor)
        ]
        if places:
            anchor, relation = rng.choice(places)
            anchor_words = pick(rng, described[anchor].unique, 1)[0]
            text = f"the {say(head)} {relation} the {say(anchor_words)}"
            yield Phrase(text, "relation", frozenset((index,)))


def extreme_phrases(
    rng: random.Random, scene: Scene, heads: list[Words], index: int, most: int
) -> Iterator[Phrase]:
    """ "the red ring furthest left", "the lowest star", "the biggest ring": several fit, one clearly so."""
    for head in pick(rng, heads, most):
        rivals = scene.fitting(head) - {index}
        texts = [text for text, holds in _extremes(scene, index, rivals, head) if holds]
        if texts:
            yield Phrase(rng.choice(texts), "extreme", frozenset((index,)))


def group_phrases(rng: random.Random, scene: Scene, most: int) -> Iterator[Phrase]:
    """ "the two stars", "both blue things": every thing that the words fit, and at least two."""
    heads = {words for split in describe(scene) for words in split.heads if len(words) <= 2}
    for words in pick(rng, sorted(heads), most):
        targets = scene.fitting(words)
        texts = [f"the {NUMBERS[len(targets)]} {say_many(words)}", f"the {say_many(words)}"]
        if len(targets) == 2:
            texts.append(f"both {say_many(words)}")
        yield Phrase(rng.choice(texts), "group", targets)


def label_phrases(scene: Scene, index: int) -> Iterator[Phrase]:
    """ "ring", where it is the only one."""
    shape = scene.things[index].look.shape
    if len(scene.fitting((shape,))) == 1:
        yield Phrase(shape, "attribute", frozenset((index,)))


def singular(word: str) -> str:
    """The shape or "thing" that a plural names; any other word as it is."""
    return _SINGULARS.get(word, word)


_SINGULARS = {plural(noun): noun for noun in (*SHAPES, "thing")}


def _says_shape_or_colour(words: Words) -> bool:
    return words[-1] != "thing" or any(word in COLOURS for word in words)


def _only_one_relates(scene: Scene, index: int, rivals: Iterable[int], relation: str, anchor: int) -> bool:
    # `is`: a rival that is too close to call (None) makes the phrase unclear
    return all(scene.relates(rival, relation, anchor) is (rival == index) for rival in rivals)


def _extremes(scene: Scene, index: int, rivals: frozenset[int], head: Words) -> Iterator[tuple[str, bool]]:
    for extreme, (axis, sign) in EXTREMES.items():
        centres = scene.centres
        holds = all(sign * (centres[index][axis] - centres[rival][axis]) >= CLEARLY for rival in rivals)
        text = f"{say(head)} {extreme}" if extreme.startswith("furthest") else f"{extreme} {say(head)}"
        yield f"the {text}", holds
    if head[0] in ("small", "large"):  # "the biggest small ring" says two things at once
        return
    radius = scene.things[index].radius
    radii = [scene.things[rival].radius for rival in rivals]
    yield f"the biggest {say(head)}", radius >= BIGGER * max(radii)
    yield f"the smallest {say(head)}", radius * BIGGER <= min(radii)
