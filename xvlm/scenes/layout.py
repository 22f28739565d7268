"""Samples scene layouts: which objects, and where."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from xvlm.scenes.scene import (
    COLOURS,
    HELD_OUT,
    SEEN,
    SHAPES,
    SIZES,
    TEXTURES,
    Appearance,
    Layout,
    SceneObject,
)
from xvlm.scenes.shapes import rasterize, visible_fractions, visible_masks

COUNTS = {2: 0.15, 3: 0.35, 4: 0.3, 5: 0.2}
RADII = {"small": (0.09, 0.12), "large": (0.17, 0.22)}
MAX_ANGLE = {"star": math.pi, "moon": 0.6}
DEFAULT_MAX_ANGLE = 0.35
MAX_LARGE = 3
MIN_VISIBLE = 0.55
CHECK_SIZE = 64  # pixels; fixed, so that a layout does not depend on the size at which it is rendered


def sample_layout(rng: random.Random, held_out: bool = False, first: Appearance | None = None) -> Layout:
    """Sample a layout of 2 to 5 objects, of which each is at least half visible.

    Args:
        held_out: True: at least one object has a held-out combination; False: none has, except `first`.
        first: appearance of one of the objects; `None` samples all.
    """
    count = rng.choices(tuple(COUNTS), tuple(COUNTS.values()))[0]
    appearances = _sample_appearances(rng, count, held_out, first)
    while True:  # rejection sampling, with more accepted than rejected layouts
        objects = _sample_positions(rng, appearances)
        if objects and _min_visible_fraction(objects) >= MIN_VISIBLE:
            return Layout(tuple(objects), rng.getrandbits(63))


def _min_visible_fraction(objects: Sequence[SceneObject]) -> float:
    rasters = [rasterize(item, CHECK_SIZE) for item in objects]
    return min(visible_fractions(rasters, visible_masks(rasters, CHECK_SIZE)))


def _sample_appearances(
    rng: random.Random, count: int, held_out: bool, first: Appearance | None
) -> list[Appearance]:
    appearances = [first] if first else []
    if held_out and not any(one.combination in HELD_OUT for one in appearances):
        appearances.append(_sample_appearance(rng, HELD_OUT))
    if not appearances:
        appearances.append(_sample_appearance(rng, SEEN))
    # Objects of one shape and colour need a relation to tell them apart, and so a third object.
    if count > 2 and len(appearances) < count and rng.random() < 0.7:
        appearances.append(_same_combination(rng, appearances[-1]))
    while len(appearances) < count:
        appearances.append(_next_appearance(rng, rng.choice(appearances)))
    rng.shuffle(appearances)
    return _limit_large(appearances)


def _next_appearance(rng: random.Random, other: Appearance) -> Appearance:
    value = rng.random()
    if value < 0.15:
        return _same_combination(rng, other)
    if value < 0.5:
        return _same_shape_or_colour(rng, other)
    return _sample_appearance(rng, SEEN)


def _sample_appearance(rng: random.Random, combinations: Sequence[tuple[str, str]]) -> Appearance:
    shape, colour = rng.choice(combinations)
    return Appearance(shape, colour, rng.choice(SIZES), rng.choice(TEXTURES))


def _same_combination(rng: random.Random, other: Appearance) -> Appearance:
    """Sample an appearance of the same shape and colour, identical in half of the cases."""
    if rng.random() < 0.5:
        return other
    return Appearance(other.shape, other.colour, rng.choice(SIZES), rng.choice(TEXTURES))


def _same_shape_or_colour(rng: random.Random, other: Appearance) -> Appearance:
    if rng.random() < 0.5:
        combinations = [(other.shape, colour) for colour in COLOURS]
    else:
        combinations = [(shape, other.colour) for shape in SHAPES]
    return _sample_appearance(rng, [combination for combination in combinations if combination in SEEN])


def _limit_large(appearances: Sequence[Appearance]) -> list[Appearance]:
    """Make large objects beyond the first `MAX_LARGE` small, so that all fit into the image."""
    limited: list[Appearance] = []
    for one in appearances:
        num_large = sum(other.size == "large" for other in limited)
        if one.size == "large" and num_large == MAX_LARGE:
            one = replace(one, size="small")
        limited.append(one)
    return limited


def _sample_positions(rng: random.Random, appearances: Sequence[Appearance]) -> list[SceneObject]:
    """Sample positions inside the image without deep overlap; return an empty list if one does not fit."""
    objects: list[SceneObject] = []
    overlapping = rng.randrange(1, len(appearances)) if rng.random() < 0.4 else None
    for index, appearance in enumerate(appearances):
        radius = rng.uniform(*RADII[appearance.size])
        max_angle = MAX_ANGLE.get(appearance.shape, DEFAULT_MAX_ANGLE)
        angle = rng.uniform(-max_angle, max_angle)
        for _ in range(40):
            neighbour = rng.choice(objects) if index == overlapping else None
            x, y = _beside(rng, neighbour, radius) if neighbour else (rng.random(), rng.random())
            if _fits(x, y, radius, objects):
                objects.append(SceneObject(appearance, x, y, radius, angle))
                break
        else:
            return []
    return objects


def _beside(rng: random.Random, neighbour: SceneObject, radius: float) -> tuple[float, float]:
    direction = rng.uniform(-math.pi, math.pi)
    distance = rng.uniform(0.7, 0.9) * (neighbour.radius + radius)
    return neighbour.x + distance * math.cos(direction), neighbour.y + distance * math.sin(direction)


def _fits(x: float, y: float, radius: float, objects: Sequence[SceneObject]) -> bool:
    border = 1.05 * radius
    if not (border <= x <= 1 - border and border <= y <= 1 - border):
        return False
    return all(
        math.hypot(x - other.x, y - other.y) >= max(radius, other.radius) + 0.3 * min(radius, other.radius)
        for other in objects
    )
