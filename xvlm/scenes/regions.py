"""Region concepts and grounding phrases of a scene."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from xvlm.records import BoxXYXY, Concept
from xvlm.scenes.absent import sample_absent
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


@dataclass(frozen=True)
class DetectionPhrase:
    """A phrase that describes none, one or several of the objects of a scene.

    Attributes:
        kind: kind of understanding that the phrase needs; "absent" and how it was changed for one that
            describes nothing.
        targets_xyxy: box (pixels) of each object that it describes.
        rivals_xyxy: boxes of the other objects that its head describes: "ring" in "the ring left of the box".
    """

    text: str
    kind: str
    targets_xyxy: tuple[BoxXYXY, ...] = ()
    rivals_xyxy: tuple[BoxXYXY, ...] = ()


def sample_regions(rng: random.Random, scene: Scene) -> tuple[Concept, ...]:
    """Sample a concept for each object that some phrase refers to, and for up to two groups of objects."""
    texts_of: dict[frozenset[int], list[str]] = {}
    for phrases in (*object_phrases(rng, scene), group_phrases(rng, scene, 2)):
        for phrase in phrases:
            texts_of.setdefault(phrase.targets, []).append(phrase.text)
    return tuple(
        Concept(
            tuple(dict.fromkeys(texts)), scene.union_box(targets), instances_xyxy=instances(scene, targets)
        )
        for targets, texts in texts_of.items()
    )


def instances(scene: Scene, targets: Iterable[int]) -> tuple[BoxXYXY, ...]:
    """Return the boxes of several objects; none for a single one, whose concept has its box."""
    boxes = tuple(scene.boxes_xyxy[index] for index in sorted(targets))
    return boxes if len(boxes) > 1 else ()


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


def sample_detection(
    rng: random.Random, scene: Scene, combinations: frozenset[tuple[str, str]]
) -> list[DetectionPhrase]:
    """Sample a phrase for each object, as `sample_grounding` does, up to two groups, and as many absent ones.

    Args:
        combinations: (shape, colour) combinations that absent phrases may name.
    """
    chosen = []
    for phrases in object_phrases(rng, scene):
        if phrases:
            kinds = sorted({phrase.kind for phrase in phrases})
            kind = rng.choices(kinds, [KIND_WEIGHTS[kind] for kind in kinds])[0]
            chosen.append(rng.choice([phrase for phrase in phrases if phrase.kind == kind]))
    chosen += group_phrases(rng, scene, 2)
    present = [
        DetectionPhrase(
            phrase.text,
            phrase.kind,
            tuple(scene.boxes_xyxy[index] for index in sorted(phrase.targets)),
            tuple(scene.boxes_xyxy[index] for index in sorted(rivals(scene, phrase))),
        )
        for phrase in chosen
    ]
    absent = sample_absent(rng, scene, combinations, len(present))
    return [*present, *(DetectionPhrase(one.text, f"absent {one.kind}") for one in absent)]


def rivals(scene: Scene, phrase: Phrase) -> frozenset[int]:
    """Return the objects that the head of a phrase with a relation or an extreme describes, but not it."""
    if phrase.kind not in ("relation", "extreme"):
        return frozenset()
    return scene.matches(phrase.head) - phrase.targets
