"""Object outlines as signed distances, rasterised objects, and the part of each object that is visible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvlm.records import BoxXYXY
from xvlm.scenes.scene import Scene, SceneObject

REACH = 1.25
"""Bound on the extent of an outline from its centre, in radii."""
SHADOW_PX = 4.0
"""Extent of an object's shadow, in pixels of a 128-pixel image."""


@dataclass(frozen=True)
class ObjectRaster:
    """The window of the image that holds one object and its shadow.

    Attributes:
        window: rows and columns of the image, h and w of them.
        u_px, v_px: (h, w) float32 coordinates from the object's centre, in its rotated frame.
        distance_px: (h, w) float32 approximate distance to the outline, negative inside.
    """

    window: tuple[slice, slice]
    u_px: np.ndarray
    v_px: np.ndarray
    distance_px: np.ndarray


def rasterize(item: SceneObject, image_size: int) -> ObjectRaster:
    """Rasterise an object in a square image of `image_size` pixels."""
    radius = item.radius * image_size
    reach = REACH * radius + SHADOW_PX * image_size / 128
    columns, xs = _window(item.x * image_size, reach, image_size)
    rows, ys = _window(item.y * image_size, reach, image_size)
    cos, sin = math.cos(item.angle), math.sin(item.angle)
    u = (cos * xs)[None, :] + (sin * ys)[:, None]
    v = (cos * ys)[:, None] - (sin * xs)[None, :]
    distance = OUTLINES[item.appearance.shape](u / radius, v / radius)
    return ObjectRaster((rows, columns), u, v, distance * radius)


def visible_scene(
    objects: tuple[SceneObject, ...], rasters: Sequence[ObjectRaster], image_size: int
) -> Scene:
    """Return the ground truth that the pixels show.  `rasters`: one for each object, back to front."""
    masks = visible_masks(rasters, image_size)
    boxes = tuple(_tight_box(mask, raster.window) for mask, raster in zip(masks, rasters, strict=True))
    return Scene(objects, boxes, tuple(visible_fractions(rasters, masks)), image_size)


def visible_masks(rasters: Sequence[ObjectRaster], image_size: int) -> list[np.ndarray]:
    """Return the (h, w) bool mask of each object's visible pixels within its window."""
    frontmost = np.full((image_size, image_size), -1, np.int8)
    for index, raster in enumerate(rasters):
        frontmost[raster.window][raster.distance_px < 0] = index
    return [frontmost[raster.window] == index for index, raster in enumerate(rasters)]


def visible_fractions(rasters: Sequence[ObjectRaster], masks: Sequence[np.ndarray]) -> list[float]:
    """Return the visible fraction of each object's pixels, from its (h, w) mask of `visible_masks`."""
    return [
        int(mask.sum()) / max(int((raster.distance_px < 0).sum()), 1)
        for mask, raster in zip(masks, rasters, strict=True)
    ]


def _tight_box(mask: np.ndarray, window: tuple[slice, slice]) -> BoxXYXY:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = window[1].start + columns, window[0].start + rows
    return float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)


def _window(centre: float, reach: float, image_size: int) -> tuple[slice, np.ndarray]:
    """Return the pixels within reach along one axis, and their distances from the centre."""
    first = max(0, math.floor(centre - reach))
    last = min(image_size, math.ceil(centre + reach))
    return slice(first, last), np.arange(first, last, dtype=np.float32) + np.float32(0.5 - centre)


# Outlines map (h, w) coordinates in units of the radius, v downwards, to (h, w) signed distances.


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 0.95


def _annulus(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.73) - 0.24


def _box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    up = 0.28 - v  # The box of the triangle is centred, not its centroid.
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
    half = 0.8  # a square that stands on a corner, with a disc on each of its upper sides
    side, up = np.abs(u), -v - 0.08 * half
    square = (side + np.abs(up) - half) * math.sqrt(0.5)
    lobe = np.sqrt((side - half / 2) ** 2 + (up - half / 2) ** 2) - half * math.sqrt(0.5)
    return np.minimum(square, lobe)


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    left = u - 0.15  # a disc minus another disc at its right
    full = np.sqrt(left * left + v * v) - 1.0
    bite = 0.78 - np.sqrt((left - 0.52) ** 2 + v * v)
    return np.maximum(full, bite)


OUTLINES = {
    "disc": _disc,
    "ring": _annulus,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
