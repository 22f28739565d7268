"""Captions of a scene, and a parser that decides whether a caption is true of a scene."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import permutations

from xvlm.scenes.phrases import NUMBERS, plural_phrase, to_plural, to_singular, with_article
from xvlm.scenes.scene import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES, Description, Scene

ADJECTIVE_RATE = {2: 0.95, 3: 0.8, 4: 0.55, 5: 0.4}
"""Probability that a caption names a size or texture, by the number of objects, to bound its length."""
OPENERS = ("", "", "a picture of ", "there is ")


def sample_captions(rng: random.Random, scene: Scene) -> tuple[str, ...]:
    """Sample different captions of 10 to 25 words: one by relations, one by counting, one of either kind."""
    makers = (_relation_caption, _counting_caption, rng.choice((_relation_caption, _counting_caption)))
    return tuple(dict.fromkeys(maker(rng, scene) for maker in makers))


def _relation_caption(rng: random.Random, scene: Scene) -> str:
    """Return "a red ring left of a small box, two stars and a moon"; one of five objects may be omitted."""
    descriptions = _sample_all(rng, scene)
    order = rng.sample(range(len(descriptions)), len(descriptions))
    if len(order) == 5 and rng.random() < 0.5:
        order.pop()
    parts: list[str] = []
    while (pairs := scene.related_pairs(order)) and len(parts) < 2:
        first, relation, second = rng.choice(pairs)
        parts.append(f"{with_article(descriptions[first])} {relation} {with_article(descriptions[second])}")
        order = [index for index in order if index not in (first, second)]
    parts += _count_equal([descriptions[index] for index in order])
    return rng.choice(OPENERS) + _join(parts)


def _counting_caption(rng: random.Random, scene: Scene) -> str:
    """Return "three things: a red ring, a small box and a striped moon"."""
    descriptions = _sample_all(rng, scene)
    rng.shuffle(descriptions)
    return f"{NUMBERS[len(descriptions)]} things: {_join(_count_equal(descriptions))}"


def _sample_all(rng: random.Random, scene: Scene) -> list[Description]:
    """Sample a description of each object, with its shape and colour."""
    rate = ADJECTIVE_RATE[len(scene.objects)]
    descriptions: list[Description] = []
    for item in scene.objects:
        look = item.appearance
        size = (look.size,) if rng.random() < rate else ()
        # "plain" is half as likely as other textures, because it is the default.
        texture = (look.texture,) if rng.random() < rate * (0.5 if look.texture == "plain" else 1) else ()
        descriptions.append((*size, *texture, look.colour, look.shape))
    return descriptions


def _count_equal(descriptions: list[Description]) -> list[str]:
    """Return one noun phrase for each different description: "a red ring", "two small boxes"."""
    counts = {words: descriptions.count(words) for words in descriptions}
    return [
        with_article(words) if count == 1 else f"{NUMBERS[count]} {plural_phrase(words)}"
        for words, count in counts.items()
    ]


def _join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class Claim:
    """The meaning of a caption.

    Attributes:
        total: number of objects in the scene; `None` if not stated.
        slots: descriptions of distinct objects.
        relations: (slot, relation, slot) that must hold.
    """

    total: int | None
    slots: tuple[Description, ...]
    relations: tuple[tuple[int, str, int], ...]


def is_true(caption: str, scene: Scene) -> bool | None:
    """Return whether a caption of this module's grammar is true of a scene; None for any other text.

    Punctuation and case are ignored.  "two red rings" claims at least two, "three things: ..." exactly three.
    An ambiguous relation is not true.
    """
    claim = _parse(caption)
    if claim is None:
        return None
    if claim.total not in (None, len(scene.objects)):
        return False
    return any(
        all(index in scene.matches(words) for index, words in zip(chosen, claim.slots, strict=True))
        and all(scene.relates(chosen[a], relation, chosen[b]) for a, relation, b in claim.relations)
        for chosen in permutations(range(len(scene.objects)), len(claim.slots))
    )


_NOUN_FORMS = [form for noun in (*SHAPES, "thing") for form in (noun, to_plural(noun))]
_ITEM = re.compile(
    rf"and |(?P<relation>{'|'.join(RELATIONS)}) |(?P<number>an?|{'|'.join(NUMBERS)})"
    rf"(?P<adjectives>(?: (?:{'|'.join((*SIZES, *TEXTURES, *COLOURS))}))*) (?P<noun>{'|'.join(_NOUN_FORMS)}) "
)


def _parse(caption: str) -> Claim | None:
    words = "".join(letter if letter.isalnum() else " " for letter in caption.lower()).split()
    text = "".join(f"{word} " for word in words)
    for opener in filter(None, OPENERS):
        text = text.removeprefix(opener)
    total = None
    if header := re.match(rf"({'|'.join(NUMBERS)}) things ", text):
        total, text = NUMBERS.index(header[1]), text[header.end() :]
    slots: list[Description] = []
    relations: list[tuple[int, str, int]] = []
    pending: str | None = None
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None or (item["relation"] and (pending or not slots)):
            return None
        if item["relation"]:
            pending = item["relation"]
        elif item["noun"]:
            if pending:
                relations.append((len(slots) - 1, pending, len(slots)))
                pending = None
            count = NUMBERS.index(item["number"]) if item["number"] in NUMBERS else 1
            slots += [(*item["adjectives"].split(), to_singular(item["noun"]))] * count
        position = item.end()
    return Claim(total, tuple(slots), tuple(relations)) if slots and not pending else None
