"""What is said of one scene: captions of the whole, phrases for its parts, and whether a caption is true."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from xvlm.data.scenes.phrases import (
    NUMBERS,
    Kind,
    Phrase,
    attribute_phrases,
    describe,
    extreme_phrases,
    group_phrases,
    label_phrases,
    relation_phrases,
    say_many,
    singular,
    with_article,
)
from xvlm.data.scenes.world import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES, Scene, Words
from xvlm.records import BoxXYXY, Concept

CAPTIONS = 3
ADJECTIVE_RATE = {2: 0.95, 3: 0.8, 4: 0.55, 5: 0.4}
"""How often a caption names a size or texture, by the number of things: few words where there are many."""
KIND_WEIGHTS = {"attribute": 3, "relation": 3, "extreme": 1}
"""How likely a grounding case is of a kind, where its thing has phrases of several."""
OPENERS = ("", "", "a picture of ", "there is ")


@dataclass(frozen=True)
class GroundingCase:
    """A phrase, the only box that it can mean (pixels), and what must be understood to find it."""

    text: str
    box_xyxy: BoxXYXY
    kind: Kind


# --- captions ---


def captions(rng: random.Random, scene: Scene) -> tuple[str, ...]:
    """Different captions of about 10-25 words: with relations, as a count, and one of either."""
    makers = (_relation_caption, _counting_caption, rng.choice((_relation_caption, _counting_caption)))
    texts = [maker(rng, scene) for maker in makers[:CAPTIONS]]
    return tuple(dict.fromkeys(texts))


def _relation_caption(rng: random.Random, scene: Scene) -> str:
    """ "a red ring left of a small box, two stars and a striped moon"; of five things one may go unsaid."""
    words = _describe_all(rng, scene)
    order = rng.sample(range(len(words)), len(words))
    if len(order) == 5 and rng.random() < 0.5:
        order.pop()
    parts: list[str] = []
    while (pair := _clear_pair(rng, scene, order)) and len(parts) < 2:
        first, relation, second = pair
        parts.append(f"{with_article(words[first])} {relation} {with_article(words[second])}")
        order = [index for index in order if index not in (first, second)]
    parts += _count_alike([words[index] for index in order])
    return rng.choice(OPENERS) + _join(parts)


def _counting_caption(rng: random.Random, scene: Scene) -> str:
    """ "three things: a red ring, a small box and a striped moon"."""
    words = _describe_all(rng, scene)
    rng.shuffle(words)
    return f"{NUMBERS[len(words)]} things: {_join(_count_alike(words))}"


def _describe_all(rng: random.Random, scene: Scene) -> list[Words]:
    """A description with shape and colour of each thing."""
    rate = ADJECTIVE_RATE[len(scene.things)]
    described: list[Words] = []
    for thing in scene.things:
        look = thing.look
        size = (look.size,) if rng.random() < rate else ()
        # "plain" goes without saying half of the time
        texture = (look.texture,) if rng.random() < rate * (0.5 if look.texture == "plain" else 1) else ()
        described.append((*size, *texture, look.colour, look.shape))
    return described


def _clear_pair(rng: random.Random, scene: Scene, order: list[int]) -> tuple[int, str, int] | None:
    """Two of the things and a relation that clearly holds between them."""
    pairs = [
        (first, relation, second)
        for first, second in permutations(order, 2)
        for relation in RELATIONS
        if scene.relates(first, relation, second)
    ]
    return rng.choice(pairs) if pairs else None


def _count_alike(described: list[Words]) -> list[str]:
    """ "a red ring", "two small boxes": one item for each different description."""
    counts = {words: described.count(words) for words in described}
    return [
        with_article(words) if count == 1 else f"{NUMBERS[count]} {say_many(words)}"
        for words, count in counts.items()
    ]


def _join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


# --- regions ---


def regions(rng: random.Random, scene: Scene) -> tuple[Concept, ...]:
    """A concept for each thing that can be pointed at, and for up to two groups; texts are equivalent."""
    texts_of: dict[frozenset[int], list[str]] = {}
    for phrases in (*things_phrases(rng, scene), group_phrases(rng, scene, 2)):
        for phrase in phrases:
            texts_of.setdefault(phrase.targets, []).append(phrase.text)
    return tuple(
        Concept(tuple(dict.fromkeys(texts)), scene.union_box(targets)) for targets, texts in texts_of.items()
    )


def things_phrases(rng: random.Random, scene: Scene, naming: bool = False) -> list[list[Phrase]]:
    """For each thing up to 6 phrases that mean it alone: attributes, relations, an extreme, its label.

    `naming`: only phrases that say the shape and the colour of their thing.
    """
    described = describe(scene)
    own = [
        split.naming(thing.look) if naming else split
        for split, thing in zip(described, scene.things, strict=True)
    ]
    return [
        [
            *attribute_phrases(rng, own[index].unique, index, 2),
            *relation_phrases(rng, scene, own[index].heads, described, index, 2),
            *extreme_phrases(rng, scene, own[index].heads, index, 1),
            *(() if naming else label_phrases(scene, index)),
        ]
        for index in range(len(scene.things))
    ]


def grounding(
    rng: random.Random, scene: Scene, only: frozenset[tuple[str, str]] | None = None
) -> list[GroundingCase]:
    """One phrase a thing, of a kind drawn from those that exist, and at most one group.

    `only`: things with these (shape, colour) combinations alone, named by shape and colour; no groups.
    """
    cases = []
    for index, phrases in enumerate(things_phrases(rng, scene, naming=only is not None)):
        if phrases and (only is None or scene.things[index].look.combination in only):
            kinds = sorted({phrase.kind for phrase in phrases})
            kind = rng.choices(kinds, [KIND_WEIGHTS[kind] for kind in kinds])[0]
            cases.append(rng.choice([phrase for phrase in phrases if phrase.kind == kind]))
    if only is None and rng.random() < 0.5:
        cases += group_phrases(rng, scene, 1)
    return [GroundingCase(phrase.text, scene.union_box(phrase.targets), phrase.kind) for phrase in cases]


# --- truth of captions ---


@dataclass(frozen=True)
class Claim:
    """What a caption says: how many things in all, distinct ones that fit the slots, relations of slots."""

    total: int | None
    slots: tuple[Words, ...]
    relations: tuple[tuple[int, str, int], ...]


def is_true(caption: str, scene: Scene) -> bool | None:
    """Whether a caption of this module's grammar holds of a scene; punctuation and case do not matter.

    "two red rings" claims at least two, "three things: ..." exactly three.  A relation counts only where
    it is clear.  None if the caption is of another grammar.
    """
    claim = _parse(caption)
    if claim is None:
        return None
    if claim.total not in (None, len(scene.things)):
        return False
    return any(
        all(index in scene.fitting(words) for index, words in zip(chosen, claim.slots, strict=True))
        and all(scene.relates(chosen[a], relation, chosen[b]) for a, relation, b in claim.relations)
        for chosen in permutations(range(len(scene.things)), len(claim.slots))
    )


def _parse(caption: str) -> Claim | None:
    text = " ".join("".join(letter if letter.isalnum() else " " for letter in caption.lower()).split())
    for opener in filter(None, OPENERS):
        text = text.removeprefix(opener)
    tokens = text.split()
    total = None
    if len(tokens) > 1 and tokens[0] in NUMBERS and tokens[1] == "things":
        total, tokens = NUMBERS.index(tokens[0]), tokens[2:]
    slots: list[Words] = []
    relations: list[tuple[int, str, int]] = []
    pending: str | None = None
    for kind, value in _items(tokens):
        if kind == "unknown" or (kind == "relation" and (pending or not slots)):
            return None
        if kind == "relation":
            pending = value[0]
            continue
        count, words = NUMBERS.index(value[0]), value[1:]
        if pending:
            relations.append((len(slots) - 1, pending, len(slots)))
            pending = None
        slots += [words] * count
    return Claim(total, tuple(slots), tuple(relations)) if slots and not pending else None


def _items(tokens: list[str]) -> Iterator[tuple[str, Words]]:
    """("noun", (number, adjectives..., noun)), ("relation", (words,)) or ("unknown", ()), in order."""
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "and":
            position += 1
        elif " ".join(tokens[position : position + 2]) in RELATIONS:
            yield "relation", (" ".join(tokens[position : position + 2]),)
            position += 2
        elif token in RELATIONS:
            yield "relation", (token,)
            position += 1
        elif token in ("a", "an", *NUMBERS):
            end = position + 1
            while end < len(tokens) and tokens[end] in ADJECTIVES:
                end += 1
            noun = singular(tokens[end]) if end < len(tokens) else ""
            if noun not in (*SHAPES, "thing"):
                yield "unknown", ()
                return
            number = token if token in NUMBERS else "one"
            yield "noun", (number, *tokens[position + 1 : end], noun)
            position = end + 1
        else:
            yield "unknown", ()
            return


ADJECTIVES = frozenset((*SIZES, *TEXTURES, *COLOURS))
