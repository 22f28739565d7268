"""Drawing scenes at random: which things, and where."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from xvlm.data.scenes.shapes import visible_parts
from xvlm.data.scenes.world import COLOURS, HELD_OUT, SEEN, SHAPES, SIZES, TEXTURES, Layout, Look, Thing

COUNTS = {2: 0.15, 3: 0.35, 4: 0.3, 5: 0.2}
RADII = {"small": (0.09, 0.12), "large": (0.17, 0.22)}
TILT = {"star": math.pi, "moon": 0.6}
OTHER_TILT = 0.35
MOST_LARGE = 3
MIN_VISIBLE = 0.55
CHECK_SIZE = 64  # pixels; fixed, so that a layout does not depend on the size that it is drawn at


def sample_layout(rng: random.Random, held_out: bool = False, first: Look | None = None) -> Layout:
    """One layout of 2-5 things, each at least half visible.

    Args:
        held_out: one thing at least has a held-out combination; otherwise none has (see `first`).
        first: the look of one of the things, instead of a random one.
    """
    count = rng.choices(tuple(COUNTS), tuple(COUNTS.values()))[0]
    looks = _sample_looks(rng, count, held_out, first)
    while True:  # rejection sampling: a round succeeds more often than not
        things = _place(rng, looks)
        if things and min(visible_parts(things, CHECK_SIZE)) >= MIN_VISIBLE:
            return Layout(tuple(things), rng.getrandbits(63))


def _sample_looks(rng: random.Random, count: int, held_out: bool, first: Look | None) -> list[Look]:
    looks = [first] if first else []
    if held_out and not any(look.combination in HELD_OUT for look in looks):
        looks.append(_random_look(rng, HELD_OUT))
    if not looks:
        looks.append(_random_look(rng, SEEN))
    # look-alikes make phrases need a relation; with two things alone there is no third to relate to
    if count > 2 and len(looks) < count and rng.random() < 0.7:
        looks.append(_twin(rng, looks[-1]))
    while len(looks) < count:
        looks.append(_next_look(rng, rng.choice(looks)))
    rng.shuffle(looks)
    return _limit_large(looks)


def _next_look(rng: random.Random, other: Look) -> Look:
    chance = rng.random()
    if chance < 0.15:
        return _twin(rng, other)
    if chance < 0.5:
        return _cousin(rng, other)
    return _random_look(rng, SEEN)


def _random_look(rng: random.Random, combinations: Sequence[tuple[str, str]]) -> Look:
    shape, colour = rng.choice(combinations)
    return Look(shape, colour, rng.choice(SIZES), rng.choice(TEXTURES))


def _twin(rng: random.Random, look: Look) -> Look:
    """Same shape and colour; half of them the same throughout."""
    if rng.random() < 0.5:
        return look
    return Look(look.shape, look.colour, rng.choice(SIZES), rng.choice(TEXTURES))


def _cousin(rng: random.Random, look: Look) -> Look:
    """Same shape or same colour."""
    if rng.random() < 0.5:
        kin = [(look.shape, colour) for colour in COLOURS]
    else:
        kin = [(shape, look.colour) for shape in SHAPES]
    return _random_look(rng, [combination for combination in kin if combination in SEEN])


def _limit_large(looks: Sequence[Look]) -> list[Look]:
    """Later large things become small, so that all find a place."""
    limited: list[Look] = []
    for look in looks:
        large = sum(other.size == "large" for other in limited)
        if look.size == "large" and large == MOST_LARGE:
            look = Look(look.shape, look.colour, "small", look.texture)
        limited.append(look)
    return limited


def _place(rng: random.Random, looks: Sequence[Look]) -> list[Thing]:
    """Things inside the picture, none deep inside another; empty when one finds no place."""
    things: list[Thing] = []
    touching = rng.randrange(1, len(looks)) if rng.random() < 0.4 else None  # this one overlaps another
    for index, look in enumerate(looks):
        radius = rng.uniform(*RADII[look.size])
        tilt = TILT.get(look.shape, OTHER_TILT)
        angle = rng.uniform(-tilt, tilt)
        for _ in range(40):
            near = rng.choice(things) if index == touching else None
            x, y = _beside(rng, near, radius) if near else (rng.random(), rng.random())
            if _has_room(x, y, radius, things):
                things.append(Thing(look, x, y, radius, angle))
                break
        else:
            return []
    return things


def _beside(rng: random.Random, near: Thing, radius: float) -> tuple[float, float]:
    direction = rng.uniform(-math.pi, math.pi)
    distance = rng.uniform(0.7, 0.9) * (near.radius + radius)
    return near.x + distance * math.cos(direction), near.y + distance * math.sin(direction)


def _has_room(x: float, y: float, radius: float, things: Sequence[Thing]) -> bool:
    border = 1.05 * radius
    if not (border <= x <= 1 - border and border <= y <= 1 - border):
        return False
    return all(
        math.hypot(x - other.x, y - other.y) >= max(radius, other.radius) + 0.3 * min(radius, other.radius)
        for other in things
    )
