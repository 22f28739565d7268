"""The scene data set: a deterministic function of split, seed and index; images are rendered on access."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

from xvlm.common.errors import InputError
from xvlm.records import Concept, Record
from xvlm.scenes.absent import sample_absent
from xvlm.scenes.captions import sample_captions
from xvlm.scenes.layout import sample_layout
from xvlm.scenes.questions import QUESTION_KINDS, SceneQuestion, sample_questions
from xvlm.scenes.regions import (
    DetectionPhrase,
    GroundingPhrase,
    sample_detection,
    sample_grounding,
    sample_regions,
)
from xvlm.scenes.render import render
from xvlm.scenes.scene import HELD_OUT, SEEN, Layout, Scene, Split
from xvlm.scenes.shapes import rasterize, visible_scene
from xvlm.scenes.statements import STATEMENT_KINDS, sample_statement

STATEMENTS_PER_PAIR = 16
"""Number of statements that are sampled for a pair, before duplicates are removed."""

ABSENT_TEXTS = 8
"""Maximum number of absent phrases of a record."""

MAX_SIZE = 2048
"""Largest side of an image in pixels; rendering needs several numbers for each pixel and object."""


@dataclass(frozen=True)
class ScenePair:
    """Two images with their ground truth, and statements about both with their truth (the task of NLVR2)."""

    left: Record
    right: Record
    statements: tuple[tuple[str, bool], ...]
    left_scene: Scene
    right_scene: Scene


@dataclass(frozen=True)
class Scenes:
    """Images of 2 to 5 objects with captions, region phrases, questions, and statements about pairs.

    "train" and "test" are different scenes of the same combinations of shape and colour.  Each scene of
    "heldout" has a combination that occurs in neither of them, in images or texts.

    Attributes:
        split: "train", "test" or "heldout".
        size: number of scenes.
        seed: random seed.
        image_size: side of the square images in pixels.

    Raises:
        InputError: the split is unknown, or the size or image size is out of range.
    """

    split: Split
    size: int
    seed: int = 0
    image_size: int = 128

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise InputError(f"split is {self.split!r}; it can be one of {', '.join(get_args(Split))}")
        if self.size < 0:
            raise InputError(f"size is {self.size}; it must be 0 or more scenes")
        if not 64 <= self.image_size <= MAX_SIZE:
            raise InputError(f"image_size is {self.image_size}; it must be 64 to {MAX_SIZE} pixels")

    @property
    def name(self) -> str:
        """Name of the source in logs."""
        return f"scenes:{self.split}:{self.size}"

    @property
    def shards(self) -> tuple[int, ...]:
        """Sizes of the shards: one, because any scene is rendered as fast as any other."""
        return (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        """Return the image as (image_size, image_size, 3) uint8; the captions are a concept without a box."""
        return self._record(self._key(index), self._layout(index))[0]

    def scene(self, index: int) -> Scene:
        """Return the ground truth of image `index`."""
        objects = self._layout(index).objects
        return visible_scene(objects, [rasterize(one, self.image_size) for one in objects], self.image_size)

    def grounding(self, index: int) -> list[GroundingPhrase]:
        """Return phrases with exactly one correct box; those of "heldout" name held-out combinations."""
        only = frozenset(HELD_OUT) if self.split == "heldout" else None
        return sample_grounding(self._rng(index, "grounding"), self.scene(index), only)

    def detection(self, index: int) -> list[DetectionPhrase]:
        """Return phrases that describe none, one or several of the objects, with the boxes of all of them."""
        rng, scene = self._rng(index, "detection"), self.scene(index)
        return sample_detection(rng, scene, self._combinations())

    def questions(self, index: int, kinds: tuple[str, ...] = QUESTION_KINDS) -> list[SceneQuestion]:
        """Return questions of some kinds about image `index`; see `sample_questions`."""
        name_held_out = self.split == "heldout"
        return sample_questions(self._rng(index, "questions"), self.scene(index), name_held_out, kinds)

    def pair(self, index: int, kinds: tuple[str, ...] = STATEMENT_KINDS) -> ScenePair:
        """Return image `index`, a second image, and different statements about both, half of which are true.

        Args:
            index: index of the left image.
            kinds: kinds of statements, see `sample_statement`.
        """
        rng = self._rng(index, "pair")
        key, layout = self._key(index), self._layout(index)
        # A shared appearance makes "both pictures show ..." true often enough, and false statements hard.
        shared = rng.choice(layout.objects).appearance if rng.random() < 0.7 else None
        other = sample_layout(rng, self.split == "heldout", shared)
        left, left_scene = self._record(key, layout)
        right, right_scene = self._record(f"{key}/right", other)
        truths = [rng.random() < 0.5 for _ in range(STATEMENTS_PER_PAIR)]
        statements = {sample_statement(rng, left_scene, right_scene, truth, kinds): truth for truth in truths}
        return ScenePair(left, right, tuple(statements.items()), left_scene, right_scene)

    def _record(self, key: str, layout: Layout) -> tuple[Record, Scene]:
        rasters = [rasterize(one, self.image_size) for one in layout.objects]
        scene = visible_scene(layout.objects, rasters, self.image_size)
        rng = random.Random(f"{key}/words")
        concepts = (Concept(sample_captions(rng, scene)), *sample_regions(rng, scene))
        # A generator of its own, so that the other texts do not depend on how many these are.
        absent = sample_absent(random.Random(f"{key}/absent"), scene, self._combinations(), ABSENT_TEXTS)
        texts = tuple(phrase.text for phrase in absent)
        return Record(key, render(layout, rasters, self.image_size), concepts, absent_texts=texts), scene

    def _combinations(self) -> frozenset[tuple[str, str]]:
        """Return the (shape, colour) combinations that absent phrases may name."""
        return frozenset(HELD_OUT if self.split == "heldout" else SEEN)

    def _layout(self, index: int) -> Layout:
        return sample_layout(self._rng(index, "layout"), self.split == "heldout")

    def _key(self, index: int) -> str:
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} is out of range: {self.split} has {self.size} scenes")
        return f"scenes/{self.split}/{self.seed}/{index}"

    def _rng(self, index: int, purpose: str) -> random.Random:
        # A string seeds by its SHA-512: the same on every platform, and no two streams coincide.
        return random.Random(f"{self._key(index)}/{purpose}")
