"""Regions that a user names by a box in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.records import BoxXYXY


def region_box(box_xyxy: BoxXYXY, width: int, height: int) -> Tensor:
    """Convert a box in pixels of an upright image to (4,) corners in [0, 1].

    Raises InputError if the box is empty or not within the image.
    """
    x0, y0, x1, y1 = box_xyxy
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(
            f"box_xyxy is {tuple(box_xyxy)}; it must be x0 < x1 and y0 < y1 within an image of "
            f"{width} x {height} pixels"
        )
    return torch.tensor([x0 / width, y0 / height, x1 / width, y1 / height])
