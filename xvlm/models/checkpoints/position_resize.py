"""Interpolation of learned position embeddings for another resolution, as in the published loader."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.common.errors import InputError


def fit_positions(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Resize position embeddings in a state dict to the sizes that `model` has.

    Absolute embeddings (`pos_embed`) are interpolated bicubically, Swin's tables of relative positions by a
    spline over a geometric grid.  Other tensors stay as they are, even those whose shape differs.
    """
    own = model.state_dict()
    fitted = dict(tensors)
    for name, value in tensors.items():
        if name not in own or own[name].shape == value.shape:
            continue
        if name.endswith("relative_position_bias_table"):
            fitted[name] = resize_relative_table(value, square_side(own[name].shape[0]))
        elif name.endswith("pos_embed"):
            fitted[name] = resize_absolute(value, own[name].shape[1] - 1)
    return fitted


def square_side(count: int) -> int:
    """Return the side of a square grid of `count` positions.  Raises InputError if the grid is not square."""
    root = round(count**0.5)
    if root * root != count:
        raise InputError(f"{count} positions are no square grid")
    return root


def resize_absolute(position_1PD: Tensor, patches: int) -> Tensor:
    """(1, 1 + P, D), class token first -> (1, 1 + patches, D), bicubic; both grids are square."""
    cls_11D, grid_1PD = position_1PD.split((1, position_1PD.shape[1] - 1), dim=1)
    old, new = square_side(grid_1PD.shape[1]), square_side(patches)
    grid_1Dhw = grid_1PD.transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(grid_1Dhw, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((cls_11D, resized.flatten(2).transpose(1, 2)), dim=1)


def resize_relative_table(table: Tensor, new: int) -> Tensor:
    """(side * side, H) biases of relative positions -> (new * new, H).

    The old offsets are mapped to a geometric progression, dense near 0, whose outermost offset meets the
    outermost new one (BEiT's rule, which the published loader uses).

    Raises InputError if a window has fewer than 3 patches on a side, too few for a cubic spline.
    """
    from scipy.interpolate import RectBivariateSpline  # 38 MB that loading a model rarely needs

    old = square_side(table.shape[0])
    if old < 4:
        raise InputError(
            f"windows of {(old + 1) // 2} patches are too small to be resized; at least 3 are needed"
        )
    offsets = _geometric_offsets(old // 2, new // 2)
    wanted = np.arange(-(new // 2), new // 2 + 1, dtype=float)
    grid_Hhw = table.T.reshape(-1, old, old).double().numpy()
    resized = [RectBivariateSpline(offsets, offsets, grid_hw)(wanted, wanted).ravel() for grid_hw in grid_Hhw]
    return torch.from_numpy(np.stack(resized, axis=1)).to(table)


def _geometric_offsets(steps: int, reach: int) -> np.ndarray:
    """Return 2 * steps + 1 offsets around 0 whose distances grow by a constant factor up to about `reach`.

    The factor is found by bisection between 1.01 and 1.5 to 1e-6, as in the published loader; a more exact
    factor would give other tables.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2
        if (1 - factor**steps) / (1 - factor) > reach:
            high = factor
        else:
            low = factor
    positive = np.cumsum(factor ** np.arange(steps))
    return np.concatenate((-positive[::-1], [0.0], positive))
