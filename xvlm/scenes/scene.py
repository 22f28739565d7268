"""Scene geometry and vocabulary: objects with attributes and positions, and the relations between them.

Positions are fractions of the image side, so a scene is the same at every image size; boxes are in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal

from xvlm.records import BoxXYXY

Split = Literal["train", "test", "heldout"]

SHAPES = ("disc", "ring", "box", "triangle", "star", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")

# Each shape and each colour occurs once here, so training has 7 of the 8 combinations of each.
HELD_OUT = tuple((shape, COLOURS[(3 * k + 2) % len(COLOURS)]) for k, shape in enumerate(SHAPES))
SEEN = tuple((shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in HELD_OUT)

Description = tuple[str, ...]
"""Adjectives in the order size, texture, colour, and then a shape or "thing"."""

# (axis, sign) of the direction from the second object to the first; y grows downwards
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREMES = {"furthest left": (0, -1), "furthest right": (0, 1), "highest": (1, -1), "lowest": (1, 1)}

MIN_TRUE_GAP = 0.12
"""Smallest distance of centres, as a fraction of the image side, at which a relation is true."""
MAX_FALSE_GAP = 0.02
"""Largest distance at which the relation is false; in between it is ambiguous."""


@dataclass(frozen=True)
class Appearance:
    """The four attributes of an object; no two attributes share a word."""

    shape: str
    colour: str
    size: str
    texture: str

    @property
    def combination(self) -> tuple[str, str]:
        """(shape, colour), the unit of the held-out split."""
        return self.shape, self.colour


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes:
        appearance: shape, colour, size and texture.
        x, y: centre, as fractions of the image side.
        radius: half of the extent, as a fraction of the image side.
        angle: clockwise rotation in radians.
    """

    appearance: Appearance
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Layout:
    """Objects back to front, and the seed of the background's pixels."""

    objects: tuple[SceneObject, ...]
    background: int


@dataclass(frozen=True)
class Scene:
    """The ground truth of one image.

    Attributes:
        objects: back to front.
        boxes_xyxy: tight box of each object's visible pixels.
        visible_fractions: fraction of each object's pixels that no other object hides.
        image_size: side of the square image in pixels.
    """

    objects: tuple[SceneObject, ...]
    boxes_xyxy: tuple[BoxXYXY, ...]
    visible_fractions: tuple[float, ...]
    image_size: int

    @cached_property
    def _words(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(("thing", *vars(item.appearance).values())) for item in self.objects)

    @cached_property
    def centres(self) -> tuple[tuple[float, float], ...]:
        """Centre (x, y) of each visible box, as fractions of the image side."""
        side = 2 * self.image_size
        return tuple(((x0 + x1) / side, (y0 + y1) / side) for x0, y0, x1, y1 in self.boxes_xyxy)

    def matches(self, description: Description) -> frozenset[int]:
        """Return the objects that every word of the description applies to."""
        words = frozenset(description)
        return frozenset(index for index, own in enumerate(self._words) if words <= own)

    def relates(self, a: int, relation: str, b: int) -> bool | None:
        """Return whether object `a` has the relation to object `b`, by visible centres; None if ambiguous."""
        axis, sign = RELATIONS[relation]
        gap = sign * (self.centres[a][axis] - self.centres[b][axis])
        return True if gap >= MIN_TRUE_GAP else False if gap <= MAX_FALSE_GAP else None

    def related_pairs(self, indices: Sequence[int]) -> list[tuple[int, str, int]]:
        """Return (first object, relation, second object) for every relation that holds between objects."""
        return [
            (first, relation, second)
            for first, second in permutations(indices, 2)
            for relation in RELATIONS
            if self.relates(first, relation, second)
        ]

    def union_box(self, indices: Iterable[int]) -> BoxXYXY:
        """Return the tight box around the visible pixels of several objects."""
        return union_box(self.boxes_xyxy[index] for index in indices)


def union_box(boxes_xyxy: Iterable[BoxXYXY]) -> BoxXYXY:
    """Return the tight box around several boxes."""
    x0, y0, x1, y1 = zip(*boxes_xyxy, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
