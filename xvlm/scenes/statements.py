"""True and false statements about two scenes (the task of NLVR2)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations

from xvlm.scenes.phrases import NUMBERS, describe_objects, plural_phrase, sample_descriptions, with_article
from xvlm.scenes.questions import OPPOSITES, long_descriptions, short_description
from xvlm.scenes.scene import RELATIONS, Description, Scene

STATEMENT_KINDS = ("both", "only", "more", "total", "related")


def sample_statement(
    rng: random.Random, left: Scene, right: Scene, truth: bool, kinds: tuple[str, ...] = STATEMENT_KINDS
) -> str:
    """Sample a true or false statement, preferably of a kind that has both true and false ones.

    Args:
        truth: whether the statement is true.
        kinds: kinds of statements; another kind is used only if none of these is possible.
    """
    words = sample_descriptions(rng, long_descriptions(rng, left), 2)
    words += sample_descriptions(rng, long_descriptions(rng, right), 2)
    words += [short_description(rng, left), short_description(rng, right)]
    by_kind = {
        "both": _both(left, right, words),
        "only": _only(left, right, words),
        "more": _more(left, right, words),
        "total": _total(left, right, words),
        "related": _related(rng, left, right),
    }
    texts: dict[str, dict[bool, list[str]]] = {}
    for kind, statements in by_kind.items():
        known = set(statements)
        texts[kind] = {
            value: sorted(text for text, holds in known if holds is value) for value in (True, False)
        }
    balanced = [kind for kind in texts if texts[kind][True] and texts[kind][False]]
    # This list is never empty: an object of the left image is in both images or only in the left one, and
    # two images cannot both be the only one.
    allowed = balanced or [kind for kind in texts if texts[kind][truth]]
    return rng.choice(texts[rng.choice([kind for kind in allowed if kind in kinds] or allowed)][truth])


def _both(left: Scene, right: Scene, choices: list[Description]) -> Iterator[tuple[str, bool]]:
    for words in choices:
        yield f"both pictures show {with_article(words)}", bool(left.matches(words) and right.matches(words))


def _only(left: Scene, right: Scene, choices: list[Description]) -> Iterator[tuple[str, bool]]:
    for words in choices:
        for name, one, other in (("left", left, right), ("right", right, left)):
            holds = bool(one.matches(words)) and not other.matches(words)
            yield f"only the {name} picture shows {with_article(words)}", holds


def _more(left: Scene, right: Scene, choices: list[Description]) -> Iterator[tuple[str, bool]]:
    for words in choices:
        difference = len(left.matches(words)) - len(right.matches(words))
        yield f"the left picture has more {plural_phrase(words)} than the right", difference > 0
        yield f"the right picture has more {plural_phrase(words)} than the left", difference < 0


def _total(left: Scene, right: Scene, choices: list[Description]) -> Iterator[tuple[str, bool]]:
    for words in choices:
        total = len(left.matches(words)) + len(right.matches(words))
        for number in (total - 1, total, total + 1):
            if 1 < number < len(NUMBERS):
                text = f"there are {NUMBERS[number]} {plural_phrase(words)} in the two pictures"
                yield text, number == total


def _related(rng: random.Random, left: Scene, right: Scene) -> Iterator[tuple[str, bool]]:
    """Yield "the left picture shows a red ring above a box" for objects with unique descriptions."""
    for name, scene in (("left", left), ("right", right)):
        described = describe_objects(scene)
        unique = [index for index, descriptions in enumerate(described) if descriptions.unique]
        words_of = {index: sample_descriptions(rng, described[index].unique, 1)[0] for index in unique}
        for first, second in permutations(unique, 2):
            for relation in RELATIONS:
                holds = scene.relates(first, relation, second)
                if holds is not None and (holds or scene.relates(first, OPPOSITES[relation], second)):
                    a, b = with_article(words_of[first]), with_article(words_of[second])
                    yield f"the {name} picture shows {a} {relation} {b}", holds
