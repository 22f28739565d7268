"""The data set: a pure function of (split, seed, index), with pictures drawn when they are asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

import numpy as np

from xvlm.data.scenes.draw import paint
from xvlm.data.scenes.language import GroundingCase, captions, grounding, regions
from xvlm.data.scenes.layout import sample_layout
from xvlm.data.scenes.questions import QUESTIONS, STATEMENTS, Question, questions, statement
from xvlm.data.scenes.shapes import cut_out, visible_scene
from xvlm.data.scenes.world import HELD_OUT, Layout, Look, Scene, Split
from xvlm.errors import InputError
from xvlm.records import Concept, Record

DRAWN = 16
"""Statements drawn on a pair of pictures; those that come twice are said once."""


MAX_SIZE = 2048
"""Largest side of a picture in pixels; drawing takes several numbers for each pixel and thing."""


@dataclass(frozen=True)
class Pair:
    """Two pictures and statements on them, true or false (the task of NLVR2), with their ground truth."""

    left: Record
    right: Record
    statements: tuple[tuple[str, bool], ...]
    left_scene: Scene
    right_scene: Scene


@dataclass(frozen=True)
class Scenes:
    """Pictures of 2-5 things with captions, region phrases, questions, and statements on pairs.

    "train" and "test" are different scenes of the same combinations of shape and colour; each scene of
    "heldout" has a combination that neither of them ever shows or names.

    Attributes:
        size: number of scenes.
        image_size: side of the square pictures in pixels.

    Raises InputError for an unknown split, a negative size, or an image size out of its range.
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
        """What logs call it."""
        return f"scenes:{self.split}:{self.size}"

    @property
    def shards(self) -> tuple[int, ...]:
        """One block: any scene is drawn as fast as any other."""
        return (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        """The picture as (image_size, image_size, 3) uint8; its captions are one concept without a box."""
        return self._record(self._key(index), self._layout(index))[0]

    def scene(self, index: int) -> Scene:
        """The ground truth of picture `index`."""
        return _visible(self._layout(index), self.image_size)

    def grounding(self, index: int) -> list[GroundingCase]:
        """Phrases with exactly one correct box; on "heldout" they name things of held-out combinations."""
        only = frozenset(HELD_OUT) if self.split == "heldout" else None
        return grounding(self._rng(index, "grounding"), self.scene(index), only)

    def questions(self, index: int, about: tuple[str, ...] = QUESTIONS) -> list[Question]:
        """Questions of some kinds on picture `index`, each with its one right answer."""
        return questions(self._rng(index, "questions"), self.scene(index), self.split == "heldout", about)

    def pair(self, index: int, about: tuple[str, ...] = STATEMENTS) -> Pair:
        """Picture `index`, another one beside it, and different statements on both; half of all are true.

        `about`: kinds of statements, see `statement`.
        """
        rng = self._rng(index, "pair")
        key, layout = self._key(index), self._layout(index)
        # something in common makes "both pictures show ..." true often enough, and false ones hard
        shared: Look | None = rng.choice(layout.things).look if rng.random() < 0.7 else None
        other = sample_layout(rng, self.split == "heldout", shared)
        left, left_scene = self._record(key, layout)
        right, right_scene = self._record(f"{key}/right", other)
        truths = [rng.random() < 0.5 for _ in range(DRAWN)]
        said = {statement(rng, left_scene, right_scene, truth, about): truth for truth in truths}
        return Pair(left, right, tuple(said.items()), left_scene, right_scene)

    def _record(self, key: str, layout: Layout) -> tuple[Record, Scene]:
        cut_outs = [cut_out(thing, self.image_size) for thing in layout.things]
        scene = visible_scene(layout.things, cut_outs, self.image_size)
        rng = random.Random(f"{key}/words")
        concepts = (Concept(captions(rng, scene)), *regions(rng, scene))
        image: np.ndarray = paint(layout, cut_outs, self.image_size)
        return Record(key, image, concepts), scene

    def _layout(self, index: int) -> Layout:
        return sample_layout(self._rng(index, "layout"), self.split == "heldout")

    def _key(self, index: int) -> str:
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} is out of range: {self.split} has {self.size} scenes")
        return f"scenes/{self.split}/{self.seed}/{index}"

    def _rng(self, index: int, purpose: str) -> random.Random:
        # a text seeds by its SHA-512: the same everywhere, and no two streams collide
        return random.Random(f"{self._key(index)}/{purpose}")


def _visible(layout: Layout, image_size: int) -> Scene:
    cut_outs = [cut_out(thing, image_size) for thing in layout.things]
    return visible_scene(layout.things, cut_outs, image_size)
