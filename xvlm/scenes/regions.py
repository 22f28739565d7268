"""Region concepts and grounding phrases of a scene."""

from __future__ import annotations

import random
from dataclasses import dataclass

from xvlm.records import BoxXYXY, Concept
from xvlm.scenes.phrases import (
    Phrase,
    PhraseKind,
    attribute_phrases,
    describe_objects,
    extreme_phrases,
    group_phrases,
    label_phrases,
    relation_phrases,
)
from xvlm.scenes.scene import Scene

KIND_WEIGHTS = {"attribute": 3, "relation": 3, "extreme": 1}
"""Sampling weight of each kind of grounding phrase."""


@dataclass(frozen=True)
class GroundingPhrase:
    """A phrase, the box (pixels) of its only referent, and the kind of understanding that it needs."""

    text: str
    box_xyxy: BoxXYXY
    kind: PhraseKind


def sample_regions(rng: random.Random, scene: Scene) -> tuple[Concept, ...]:
    """Sample a concept for each object that some phrase refers to, and for up to two groups of objects."""
    texts_of: dict[frozenset[int], list[str]] = {}
    for phrases in (*object_phrases(rng, scene), group_phrases(rng, scene, 2)):
        for phrase in phrases:
            texts_of.setdefault(phrase.targets, []).append(phrase.text)
    return tuple(
        Concept(tuple(dict.fromkeys(texts)), scene.union_box(targets)) for targets, texts in texts_of.items()
    )


def object_phrases(rng: random.Random, scene: Scene, with_combination: bool = False) -> list[list[Phrase]]:
    """Sample up to 6 phrases that refer to each object: attributes, relations, an extreme, and its label.

    Args:
        with_combination: only use phrases that name the shape and the colour of their object.
    """
    described = describe_objects(scene)
    own = [
        one.with_combination(item.appearance) if with_combination else one
        for one, item in zip(described, scene.objects, strict=True)
    ]
    return [
        [
            *attribute_phrases(rng, own[index].unique, index, 2),
            *relation_phrases(rng, scene, own[index].ambiguous, described, index, 2),
            *extreme_phrases(rng, scene, own[index].ambiguous, index, 1),
            *(() if with_combination else label_phrases(scene, index)),
        ]
        for index in range(len(scene.objects))
    ]


def sample_grounding(
    rng: random.Random, scene: Scene, only: frozenset[tuple[str, str]] | None = None
) -> list[GroundingPhrase]:
    """Sample one phrase for each object, of a sampled kind, and at most one group.

    Args:
        only: (shape, colour) combinations; if given, only objects with one of them are used, their phrases
            name both, and there is no group.
    """
    chosen = []
    for index, phrases in enumerate(object_phrases(rng, scene, with_combination=only is not None)):
        if phrases and (only is None or scene.objects[index].appearance.combination in only):
            kinds = sorted({phrase.kind for phrase in phrases})
            kind = rng.choices(kinds, [KIND_WEIGHTS[kind] for kind in kinds])[0]
            chosen.append(rng.choice([phrase for phrase in phrases if phrase.kind == kind]))
    if only is None and rng.random() < 0.5:
        chosen += group_phrases(rng, scene, 1)
    return [GroundingPhrase(phrase.text, scene.union_box(phrase.targets), phrase.kind) for phrase in chosen]
