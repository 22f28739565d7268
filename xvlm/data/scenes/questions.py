"""Questions with answers on one scene, and statements on two that are true or false."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import permutations

from xvlm.data.scenes.phrases import (
    NUMBERS,
    Descriptions,
    describe,
    descriptions,
    pick,
    say,
    say_many,
    with_article,
)
from xvlm.data.scenes.world import COLOURS, HELD_OUT, RELATIONS, SHAPES, SIZES, TEXTURES, Scene, Words

OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
EACH = 4
"""Questions of a kind that are drawn about a scene; those that come twice are asked once."""
QUESTIONS = ("colour", "shape", "texture", "count", "presence", "relation")
STATEMENTS = ("both", "only", "more", "total", "related")
"""Kinds of them."""
VALUES = (SIZES, TEXTURES, COLOURS, SHAPES)


@dataclass(frozen=True)
class Question:
    """A question and its one right answer, a single word."""

    text: str
    answer: str


# --- questions ---


def questions(
    rng: random.Random, scene: Scene, name_held_out: bool, about: tuple[str, ...] = QUESTIONS
) -> list[Question]:
    """Different questions, up to `EACH` of each kind or as many of fewer; yes and no are equally likely.

    Args:
        name_held_out: whether questions about what is not there may name held-out combinations.
        about: kinds; one that the scene does not allow is left out.
    """
    described = describe(scene)
    asked: dict[str, Question] = {}
    for _ in range(EACH * len(QUESTIONS) // len(about)):
        for kind in about:
            question = _ask(rng, scene, described, kind, name_held_out)
            if question:
                asked[question.text] = question
    return list(asked.values())


def _ask(
    rng: random.Random, scene: Scene, described: list[Descriptions], kind: str, name_held_out: bool
) -> Question | None:
    match kind:
        case "count":
            return _ask_count(rng, scene, name_held_out)
        case "presence":
            return _ask_presence(rng, scene, name_held_out)
        case "relation":
            return _ask_relation(rng, scene, described)
        case _:
            return _ask_attribute(rng, scene, described, kind)


def _ask_attribute(
    rng: random.Random, scene: Scene, described: list[Descriptions], attribute: str
) -> Question | None:
    """ "what colour is the small ring?": the description fits one thing and does not say the answer."""
    options = [
        (words, answer)
        for thing, split in zip(scene.things, described, strict=True)
        for answer in (getattr(thing.look, attribute),)
        for words in split.unique
        if answer not in words
    ]
    if not options:
        return None
    words = pick(rng, sorted({words for words, _ in options}), 1)[0]
    form = {
        "colour": "what colour is the {}?",
        "shape": "what shape is the {}?",
        "texture": "is the {} plain, striped or dotted?",
    }[attribute]
    return Question(form.format(say(words)), dict(options)[words])


def _ask_count(rng: random.Random, scene: Scene, name_held_out: bool) -> Question:
    words = _short_words(rng, scene)
    if rng.random() < 0.2:
        words = _absent(rng, scene, words, name_held_out) or words
    return Question(f"how many {say_many(words)} are there?", NUMBERS[len(scene.fitting(words))])


def _ask_presence(rng: random.Random, scene: Scene, name_held_out: bool) -> Question | None:
    words: Words | None = pick(rng, _named(rng, scene), 1)[0]
    answer = rng.choice(("yes", "no"))
    if answer == "no" and words:
        words = _absent(rng, scene, words, name_held_out)
    return Question(f"is there {with_article(words)}?", answer) if words else None


def _ask_relation(rng: random.Random, scene: Scene, described: list[Descriptions]) -> Question | None:
    pairs = [
        (first, relation, second)
        for first, second in permutations(range(len(scene.things)), 2)
        if described[first].unique and described[second].unique
        for relation in RELATIONS
        if scene.relates(first, relation, second)
    ]
    if not pairs:
        return None
    first, relation, second = rng.choice(pairs)
    answer = rng.choice(("yes", "no"))
    relation = relation if answer == "yes" else OPPOSITES[relation]
    a, b = (say(pick(rng, described[index].unique, 1)[0]) for index in (first, second))
    return Question(f"is the {a} {relation} the {b}?", answer)


def _named(rng: random.Random, scene: Scene) -> list[Words]:
    """Descriptions with at least one adjective of one of the things."""
    return [words for words in descriptions(rng.choice(scene.things).look) if len(words) > 1]


def _short_words(rng: random.Random, scene: Scene) -> Words:
    """At most one adjective: such descriptions often fit several things."""
    return rng.choice([words for words in descriptions(rng.choice(scene.things).look) if len(words) <= 2])


def _absent(rng: random.Random, scene: Scene, words: Words, name_held_out: bool) -> Words | None:
    """The description with one word changed so that nothing fits it; None if that cannot be."""
    options = []
    for position, word in enumerate(words):
        values = next((values for values in VALUES if word in values), ())
        for value in values:
            changed = (*words[:position], value, *words[position + 1 :])
            if not scene.fitting(changed) and (name_held_out or not _names_held_out(changed)):
                options.append(changed)
    return rng.choice(options) if options else None


def _names_held_out(words: Words) -> bool:
    return any(shape in words and colour in words for shape, colour in HELD_OUT)


# --- statements on two pictures ---

Statements = dict[bool, list[str]]
"""Some true and some false statements of one kind."""


def statement(
    rng: random.Random, left: Scene, right: Scene, truth: bool, about: tuple[str, ...] = STATEMENTS
) -> str:
    """A true or false statement on two pictures, of a kind for which both exist if there is one.

    `about`: kinds; others are said only where none of these has a true and a false statement.
    """
    words = pick(rng, _named(rng, left), 2) + pick(rng, _named(rng, right), 2)
    words += [_short_words(rng, left), _short_words(rng, right)]
    kinds = {"both": _both(left, right, words), "only": _only_one(left, right, words)}
    kinds |= {"more": _more(left, right, words), "total": _total(left, right, words)}
    kinds["related"] = _related(rng, left, right)
    balanced = [name for name, said in kinds.items() if said[True] and said[False]]
    # never empty: what a thing of the left is like, both show or only the left; both "only" cannot be true
    allowed = balanced or [name for name, said in kinds.items() if said[truth]]
    kind = rng.choice([name for name in allowed if name in about] or allowed)
    return rng.choice(kinds[kind][truth])


def _sort(statements: list[tuple[str, bool]]) -> Statements:
    return {truth: sorted({text for text, holds in statements if holds is truth}) for truth in (True, False)}


def _both(left: Scene, right: Scene, choices: list[Words]) -> Statements:
    return _sort(
        [
            (f"both pictures show {with_article(words)}", bool(left.fitting(words) and right.fitting(words)))
            for words in choices
        ]
    )


def _only_one(left: Scene, right: Scene, choices: list[Words]) -> Statements:
    """False when both pictures show it as well as when the other one does."""
    return _sort(
        [
            (
                f"only the {name} picture shows {with_article(words)}",
                bool(one.fitting(words)) and not other.fitting(words),
            )
            for words in choices
            for name, one, other in (("left", left, right), ("right", right, left))
        ]
    )


def _more(left: Scene, right: Scene, choices: list[Words]) -> Statements:
    return _sort(
        [
            (
                f"the {name} picture has more {say_many(words)} than the {other_name}",
                len(one.fitting(words)) > len(other.fitting(words)),
            )
            for words in choices
            for name, one, other_name, other in (
                ("left", left, "right", right),
                ("right", right, "left", left),
            )
        ]
    )


def _total(left: Scene, right: Scene, choices: list[Words]) -> Statements:
    found = []
    for words in choices:
        total = len(left.fitting(words)) + len(right.fitting(words))
        for said in (total - 1, total, total + 1):
            if 1 < said < len(NUMBERS):
                text = f"there are {NUMBERS[said]} {say_many(words)} in the two pictures"
                found.append((text, said == total))
    return _sort(found)


def _related(rng: random.Random, left: Scene, right: Scene) -> Statements:
    """ "the left picture shows a red ring above a box", with things that are alone of their kind in it."""
    found = []
    for name, scene in (("left", left), ("right", right)):
        described = describe(scene)
        known = [index for index, split in enumerate(described) if split.unique]
        words_of = {index: pick(rng, described[index].unique, 1)[0] for index in known}
        for first, second in permutations(known, 2):
            for relation in RELATIONS:
                holds = scene.relates(first, relation, second)
                if holds is not None and (holds or scene.relates(first, OPPOSITES[relation], second)):
                    a, b = with_article(words_of[first]), with_article(words_of[second])
                    found.append((f"the {name} picture shows {a} {relation} {b}", holds))
    return _sort(found)
