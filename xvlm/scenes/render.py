"""Renders a layout to pixels: a muted background, and textured objects with a rim and a soft shadow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from xvlm.scenes.scene import Appearance, Layout
from xvlm.scenes.shapes import SHADOW_PX, ObjectRaster

RGB = {
    "red": (214, 40, 40),
    "orange": (247, 140, 20),
    "yellow": (248, 222, 60),
    "green": (42, 150, 62),
    "blue": (40, 92, 214),
    "purple": (142, 58, 184),
    "black": (28, 28, 32),
    "white": (246, 246, 244),
}
# The second colour of a texture is the first one, lighter or darker, so that the colour word applies to both.
SECOND_RGB = {
    name: tuple(0.55 * value if sum(rgb) > 450 else 0.4 * value + 0.6 * 255 for value in rgb)
    for name, rgb in RGB.items()
}


def render(layout: Layout, rasters: Sequence[ObjectRaster], image_size: int) -> np.ndarray:
    """Render (image_size, image_size, 3) uint8 RGB.  `rasters`: one for each object, back to front."""
    canvas = _background(np.random.default_rng(layout.background), image_size)
    unit = image_size / 128  # lengths below are in pixels of a 128-pixel image
    for item, raster in zip(layout.objects, rasters, strict=True):
        distance = raster.distance_px / unit
        region = canvas[raster.window]
        shadow = 0.35 * np.clip(1 - distance / SHADOW_PX, 0, 1)
        region *= (1 - shadow)[..., None]
        # The edge is softened over one pixel, because anti-aliasing does not scale with the image.
        cover = np.clip(0.5 - raster.distance_px, 0, 1)
        region += cover[..., None] * (_surface(item.appearance, raster, distance, unit) - region)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _surface(look: Appearance, raster: ObjectRaster, distance: np.ndarray, unit: float) -> np.ndarray:
    """Return the (h, w, 3) float32 colour of an object, as if it covered its whole window."""
    first = np.array(RGB[look.colour], np.float32)
    second = np.array(SECOND_RGB[look.colour], np.float32)
    light = 1 - 0.3 * np.clip(1 + distance / 1.5, 0, 1)  # a darker rim separates objects of one colour
    if look.texture == "plain":
        return light[..., None] * first
    pattern = _stripes if look.texture == "striped" else _dots
    mix = pattern(raster.u_px / unit, raster.v_px / unit)
    return light[..., None] * (first + mix[..., None] * (second - first))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    along = 0.8 * u + 0.6 * v
    return np.clip(0.5 + 1.6 * np.sin(along * (2 * math.pi / 7)), 0, 1)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    spacing = 7.5
    du, dv = u - spacing * np.round(u / spacing), v - spacing * np.round(v / spacing)
    return np.clip(2.9 - np.sqrt(du * du + dv * dv), 0, 1)


def _background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Return (image_size, image_size, 3) float32: two colours mixed by a pattern, a light gradient and noise.

    The colours are tinted middle greys, so that black and white objects both stand out.
    """
    grey = rng.uniform(105, 165)
    tint = rng.uniform(-17, 17, 3)
    other_tint = rng.uniform(-17, 17, 3)
    step = rng.choice((-1, 1)) * rng.uniform(14, 30)
    axis = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    pattern = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, axis)
    slope_x, slope_y = rng.uniform(-22, 22, 2).astype(np.float32)
    first = (grey + tint).astype(np.float32)
    change = (step + other_tint - tint).astype(np.float32)
    light = slope_x * (axis - 0.5)[None, :] + slope_y * (axis - 0.5)[:, None]
    light = light + 3 * rng.standard_normal(light.shape, dtype=np.float32)
    return first + light[..., None] + pattern[..., None] * change


# Patterns map the (size,) pixel centres of an axis, in [0, 1], to (size, size) float32 of about 0 to 1.


def _plain(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    angle = rng.uniform(0, 2 * math.pi)
    mix = 0.5 + math.cos(angle) * (axis - 0.5)[None, :] + math.sin(angle) * (axis - 0.5)[:, None]
    return np.clip(mix, 0, 1).astype(np.float32)


def _clouds(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Smooth random values on a coarse grid by Gaussians."""
    nodes = np.linspace(-0.1, 1.1, 8)
    bumps = np.exp(-(((axis[:, None] - nodes) / 0.12) ** 2)).astype(np.float32)
    bumps /= bumps.sum(1, keepdims=True)
    return bumps @ rng.random((8, 8), dtype=np.float32) @ bumps.T


def _bands(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    angle, waves, phase = rng.uniform(0, math.pi), rng.uniform(2, 5), rng.uniform(0, 2 * math.pi)
    along = math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None]
    return np.clip(0.5 + 2 * np.sin(2 * math.pi * waves * along + phase), 0, 1).astype(np.float32)


def _checks(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    waves, phase = rng.uniform(1.5, 3.5), rng.uniform(0, 2 * math.pi, 2)
    across = np.clip(4 * np.sin(2 * math.pi * waves * axis + phase[0]), -1, 1)
    down = np.clip(4 * np.sin(2 * math.pi * waves * axis + phase[1]), -1, 1)
    return (0.5 + 0.5 * down[:, None] * across[None, :]).astype(np.float32)


def _blobs(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Add up five Gaussian spots; a Gaussian is a product over the axes."""
    centres, width = rng.random((2, 5)), rng.uniform(0.06, 0.16, 5)
    down, across = np.exp(-(((axis[None, :, None] - centres[:, None]) / width) ** 2))
    return np.clip(1.5 * (down @ across.T), 0, 1).astype(np.float32)


BACKGROUNDS = (_plain, _clouds, _bands, _checks, _blobs)
