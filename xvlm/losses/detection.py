"""Losses of the detection head: presence, objectness, and the boxes of everything that a text describes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed

SPREAD = 1 / 6
"""Standard deviation of the heat around a centre, as a fraction of the box's sides (TTFNet, AAAI 2020)."""
HARD_EXPONENT, NEAR_EXPONENT = 2, 4
"""Exponents of the focal loss for hard cells, and for cells near a centre (CornerNet, ECCV 2018)."""


def presence_loss(logit_R: Tensor, is_present_R: Tensor) -> Tensor:
    """Return the binary cross-entropy of presence: the mean over present texts and that over absent ones.

    Each has a weight of one half, however many there are.

    Args:
        logit_R: (R,) log-odds that a text describes anything in its image.
        is_present_R: (R,) bool.
    Returns:
        () this rank's part of the global mean.
    """
    loss_R = F.binary_cross_entropy_with_logits(logit_R, is_present_R.to(logit_R.dtype), reduction="none")
    means = [
        distributed.global_mean((loss_R * chosen_R).sum(), chosen_R.sum())
        for chosen_R in (is_present_R, ~is_present_R)
    ]
    return (means[0] + means[1]) / 2


def centre_cells(box_cxcywh: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return the (X,) int64 cell of a grid (rows, columns) that holds the centre of each of (X, 4) boxes."""
    rows, columns = grid_hw
    column_X = (box_cxcywh[:, 0] * columns).long().clamp(0, columns - 1)
    row_X = (box_cxcywh[:, 1] * rows).long().clamp(0, rows - 1)
    return row_X * columns + column_X


def centre_heat(box_cxcywh: Tensor, row_X: Tensor, rows: int, grid_hw: tuple[int, int]) -> Tensor:
    """Return the targets (R, C) of objectness: 1 where a centre lies, falling off as a Gaussian around it.

    Args:
        box_cxcywh: (X, 4) boxes as fractions of the image.
        row_X: (X,) int64 row of each box, below R = `rows`.
        grid_hw: rows and columns of the C cells.
    """
    height, width = grid_hw
    cell_X = centre_cells(box_cxcywh, grid_hw)
    index_C = torch.arange(height * width, device=box_cxcywh.device)
    dy_XC = (index_C // width)[None] - (cell_X // width)[:, None]
    dx_XC = (index_C % width)[None] - (cell_X % width)[:, None]
    sides_X2 = box_cxcywh[:, 2:] * box_cxcywh.new_tensor([width, height])
    sigma_X2 = (SPREAD * sides_X2).clamp(min=1e-2)
    heat_XC = torch.exp(-((dx_XC / sigma_X2[:, :1]) ** 2 + (dy_XC / sigma_X2[:, 1:]) ** 2) / 2)
    heat_RC = heat_XC.new_zeros(rows, height * width)
    return heat_RC.scatter_reduce(0, row_X[:, None].expand_as(heat_XC), heat_XC, "amax")


def objectness_loss(logit_RC: Tensor, heat_RC: Tensor, targets: int) -> Tensor:
    """Return the focal loss of objectness (CornerNet, equation 1), a mean over the targets of all ranks.

    Args:
        logit_RC: (R, C) log-odds that a cell holds the centre of something that a text describes.
        heat_RC: (R, C) from `centre_heat`.
        targets: number of targets on this rank; absent texts have none.
    Returns:
        () this rank's part of the global mean.
    """
    is_centre_RC = heat_RC == 1
    probability_RC = logit_RC.sigmoid()
    centre_RC = (1 - probability_RC) ** HARD_EXPONENT * -F.logsigmoid(logit_RC)
    other_RC = (1 - heat_RC) ** NEAR_EXPONENT * probability_RC**HARD_EXPONENT * -F.logsigmoid(-logit_RC)
    return distributed.global_mean(torch.where(is_centre_RC, centre_RC, other_RC).sum(), targets)
