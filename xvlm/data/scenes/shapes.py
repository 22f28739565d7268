"""Outlines as signed distances, cut out of the pixel grid, and what of each thing stays visible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvlm.data.scenes.world import Scene, Thing
from xvlm.records import BoxXYXY

REACH = 1.25  # of the radius: no outline extends further from its centre
HALO_PX = 4.0  # at 128 pixels: how far the shadow of a thing reaches


@dataclass(frozen=True)
class CutOut:
    """The window of the pixel grid that holds one thing.

    Attributes:
        window: rows and columns of the image, h and w of them.
        u_px, v_px: (h, w) float32 coordinates in the thing's own turned frame, from its centre.
        distance_px: (h, w) float32, about the distance to the outline, negative inside.
    """

    window: tuple[slice, slice]
    u_px: np.ndarray
    v_px: np.ndarray
    distance_px: np.ndarray


def cut_out(thing: Thing, image_size: int) -> CutOut:
    """Where the thing lies in a square picture of `image_size` pixels."""
    radius = thing.radius * image_size
    reach = REACH * radius + HALO_PX * image_size / 128
    columns, xs = _window(thing.x * image_size, reach, image_size)
    rows, ys = _window(thing.y * image_size, reach, image_size)
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    u = (cos * xs)[None, :] + (sin * ys)[:, None]
    v = (cos * ys)[:, None] - (sin * xs)[None, :]
    distance = OUTLINES[thing.look.shape](u / radius, v / radius)
    return CutOut((rows, columns), u, v, distance * radius)


def visible_scene(things: tuple[Thing, ...], cut_outs: Sequence[CutOut], image_size: int) -> Scene:
    """The scene with the boxes that the pixels show.  `cut_outs`: one a thing, back to front."""
    front = _front(cut_outs, image_size)
    boxes, parts = [], []
    for index, cut in enumerate(cut_outs):
        seen = front[cut.window] == index
        boxes.append(_tight_box(seen, cut.window))
        parts.append(float(seen.sum() / (cut.distance_px < 0).sum()))
    return Scene(things, tuple(boxes), tuple(parts), image_size)


def visible_parts(things: Sequence[Thing], image_size: int) -> list[float]:
    """The part of each thing's pixels that is not hidden."""
    cut_outs = [cut_out(thing, image_size) for thing in things]
    front = _front(cut_outs, image_size)
    own = [int((cut.distance_px < 0).sum()) for cut in cut_outs]
    return [
        int((front[cut.window] == index).sum()) / max(area, 1)
        for index, (cut, area) in enumerate(zip(cut_outs, own, strict=True))
    ]


def _front(cut_outs: Sequence[CutOut], image_size: int) -> np.ndarray:
    """(H, W) int8: the index of the frontmost thing at each pixel, -1 where there is none."""
    front = np.full((image_size, image_size), -1, np.int8)
    for index, cut in enumerate(cut_outs):
        front[cut.window][cut.distance_px < 0] = index
    return front


def _tight_box(mask: np.ndarray, window: tuple[slice, slice]) -> BoxXYXY:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = window[0].start, window[1].start
    return (
        float(left + columns[0]),
        float(top + rows[0]),
        float(left + columns[-1] + 1),
        float(top + rows[-1] + 1),
    )


def _window(centre: float, reach: float, image_size: int) -> tuple[slice, np.ndarray]:
    """The pixels within reach along one axis, and their distance from the centre."""
    first = max(0, math.floor(centre - reach))
    last = min(image_size, math.ceil(centre + reach))
    return slice(first, last), np.arange(first, last, dtype=np.float32) + np.float32(0.5 - centre)


# Outlines: (h, w) coordinates in units of the radius, v downwards -> (h, w) signed distance in the same unit.


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 0.95


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.73) - 0.24


def _box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    up = 0.28 - v  # centres the box of the triangle, not its centroid
    return np.maximum(0.866 * np.abs(u) + 0.5 * up, -up) - 0.56


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sector = 2 * math.pi / 5
    angle = np.arctan2(u, -v)  # from the upper tip
    folded = np.abs(angle - sector * np.round(angle / sector))
    radius = np.sqrt(u * u + v * v)
    tip, notch = 1.05, 0.5
    notch_x, notch_y = notch * math.cos(sector / 2), notch * math.sin(sector / 2)
    edge = math.hypot(tip - notch_x, notch_y)
    normal_x, normal_y = notch_y / edge, (tip - notch_x) / edge
    return radius * (np.cos(folded) * normal_x + np.sin(folded) * normal_y) - tip * normal_x


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, along = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return np.maximum(across - 0.3, along - 0.95)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half = 0.8  # a square on its corner, and a disc on each of its upper sides
    side, up = np.abs(u), -v - 0.08 * half
    square = (side + np.abs(up) - half) * math.sqrt(0.5)
    lobe = np.sqrt((side - half / 2) ** 2 + (up - half / 2) ** 2) - half * math.sqrt(0.5)
    return np.minimum(square, lobe)


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    left = u - 0.15  # a disc without the disc to its right
    full = np.sqrt(left * left + v * v) - 1.0
    bite = 0.78 - np.sqrt((left - 0.52) ** 2 + v * v)
    return np.maximum(full, bite)


OUTLINES = {
    "disc": _disc,
    "ring": _ring,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
