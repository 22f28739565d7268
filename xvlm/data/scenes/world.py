"""What a scene is: things with looks and places, which words fit them, and how they lie to each other.

Places are fractions of the image side, so a scene is the same at every image size; boxes are pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from xvlm.records import BoxXYXY

Split = Literal["train", "test", "heldout"]

SHAPES = ("disc", "ring", "box", "triangle", "star", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")

# One colour a shape and one shape a colour: each of them keeps 7 of its 8 combinations in training.
HELD_OUT = tuple((shape, COLOURS[(3 * k + 2) % len(COLOURS)]) for k, shape in enumerate(SHAPES))
SEEN = tuple((shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in HELD_OUT)

Words = tuple[str, ...]
"""A description: adjectives in the order size, texture, colour, then a shape or "thing"."""

# relation -> (axis, sign) of the direction in which the first thing lies from the second; y grows downwards
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREMES = {"furthest left": (0, -1), "furthest right": (0, 1), "highest": (1, -1), "lowest": (1, 1)}

CLEARLY = 0.12
"""A relation holds from this distance between centres, as a fraction of the image side."""
NOT_AT_ALL = 0.02
"""Up to this distance it does not hold; what lies between is too close to call."""


@dataclass(frozen=True)
class Look:
    """The four attributes of a thing; no two attributes share a word."""

    shape: str
    colour: str
    size: str
    texture: str

    @property
    def combination(self) -> tuple[str, str]:
        """(shape, colour), the unit of the held-out split."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Thing:
    """A look at a place.

    Attributes:
        x, y: centre, fractions of the image side.
        radius: half of its extent, a fraction of the image side.
        angle: clockwise turn in radians.
    """

    look: Look
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Layout:
    """Things back to front, and the seed of the background's pixels."""

    things: tuple[Thing, ...]
    background: int


@dataclass(frozen=True)
class Scene:
    """The ground truth of one picture.

    Attributes:
        things: back to front.
        boxes_xyxy: tight box of each thing's visible pixels.
        visible: the part of each thing's pixels that no other thing hides.
        image_size: side of the square picture in pixels.
    """

    things: tuple[Thing, ...]
    boxes_xyxy: tuple[BoxXYXY, ...]
    visible: tuple[float, ...]
    image_size: int

    @cached_property
    def _things_of_word(self) -> dict[str, frozenset[int]]:
        found: dict[str, set[int]] = {"thing": set(range(len(self.things)))}
        for index, thing in enumerate(self.things):
            look = thing.look
            for word in (look.shape, look.colour, look.size, look.texture):
                found.setdefault(word, set()).add(index)
        return {word: frozenset(indices) for word, indices in found.items()}

    @cached_property
    def centres(self) -> tuple[tuple[float, float], ...]:
        """Of each visible box: (x, y), fractions of the image side."""
        side = 2 * self.image_size
        return tuple(((x0 + x1) / side, (y0 + y1) / side) for x0, y0, x1, y1 in self.boxes_xyxy)

    def fitting(self, words: Words) -> frozenset[int]:
        """The things that all the words fit."""
        nothing: frozenset[int] = frozenset()
        return frozenset.intersection(*(self._things_of_word.get(word, nothing) for word in words))

    def relates(self, a: int, relation: str, b: int) -> bool | None:
        """Whether thing `a` lies so from thing `b`, by visible centres; None if it is too close to call."""
        axis, sign = RELATIONS[relation]
        gap = sign * (self.centres[a][axis] - self.centres[b][axis])
        return True if gap >= CLEARLY else False if gap <= NOT_AT_ALL else None

    def union_box(self, indices: Iterable[int]) -> BoxXYXY:
        """The tight box around the visible pixels of several things."""
        x0, y0, x1, y1 = zip(*(self.boxes_xyxy[index] for index in indices), strict=True)
        return min(x0), min(y0), max(x1), max(y1)
