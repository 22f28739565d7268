"""Random crops of an image, and boxes relative to a crop."""

from __future__ import annotations

import math

import numpy as np

from xvlm.data.images.decode import ImageFile
from xvlm.records import BoxXYXY


def full_crop(image: ImageFile) -> BoxXYXY:
    """Return the crop that is the full image."""
    return 0.0, 0.0, float(image.width), float(image.height)


def random_resized_crop(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> BoxXYXY:
    """Sample a crop like torchvision: a random fraction of the area, an aspect ratio of 3/4 to 4/3.

    Args:
        scale: range of the crop's area as a fraction of the image's.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_w, crop_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_w <= width and 0 < crop_h <= height:
            x0 = int(rng.integers(width - crop_w + 1))
            y0 = int(rng.integers(height - crop_h + 1))
            return x0, y0, x0 + crop_w, y0 + crop_h
    # For a very long image: the largest central crop with an allowed aspect ratio.
    crop_w, crop_h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    x0, y0 = (width - crop_w) // 2, (height - crop_h) // 2
    return x0, y0, x0 + crop_w, y0 + crop_h


def random_crop_around(box_xyxy: BoxXYXY, image: ImageFile, rng: np.random.Generator) -> BoxXYXY:
    """Sample a crop that contains a box: each edge is uniform between the box and the edge of the image."""
    x0, y0 = (int(rng.integers(math.floor(edge) + 1)) for edge in box_xyxy[:2])
    x1, y1 = (
        int(rng.integers(min(math.ceil(edge), side), side + 1))
        for edge, side in zip(box_xyxy[2:], (image.width, image.height), strict=True)
    )
    return x0, y0, x1, y1


def box_in_crop(box_xyxy: BoxXYXY, crop_xyxy: BoxXYXY, min_inside: float) -> BoxXYXY | None:
    """Return the part of a box that is inside a crop, as fractions of the crop.

    Returns `None` unless more than a fraction `min_inside` of the box's area is inside.
    """
    x0, y0 = max(box_xyxy[0], crop_xyxy[0]), max(box_xyxy[1], crop_xyxy[1])
    x1, y1 = min(box_xyxy[2], crop_xyxy[2]), min(box_xyxy[3], crop_xyxy[3])
    if x1 <= x0 or y1 <= y0:
        return None
    area = (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])
    if (x1 - x0) * (y1 - y0) / area <= min_inside:
        return None
    left, top = crop_xyxy[:2]
    width, height = crop_xyxy[2] - left, crop_xyxy[3] - top
    return (x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height


def flip_box(box_xyxy: BoxXYXY) -> BoxXYXY:
    """Return a box, as fractions of a crop, in the horizontally flipped crop."""
    x0, y0, x1, y1 = box_xyxy
    return 1 - x1, y0, 1 - x0, y1
