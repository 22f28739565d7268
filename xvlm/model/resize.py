"""Learnt positions for another resolution, as the published loader makes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.errors import InputError


def fit_positions(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, those that hold positions resized to what `model` has under their names.

    Absolute positions (`pos_embed`) bicubically, Swin's relative tables by a spline over a geometric grid.
    Whatever else has another shape is left as it is, for `put` to name.
    """
    own = model.state_dict()
    fitted = dict(given)
    for name, value in given.items():
        if name not in own or own[name].shape == value.shape:
            continue
        if name.endswith("relative_position_bias_table"):
            fitted[name] = resize_relative_table(value, side(own[name].shape[0]))
        elif name.endswith("pos_embed"):
            fitted[name] = resize_absolute(value, own[name].shape[1] - 1)
    return fitted


def side(count: int) -> int:
    """The side of a square of `count` places.  Raises InputError if it is none."""
    root = round(count**0.5)
    if root * root != count:
        raise InputError(f"{count} positions are no square grid")
    return root


def resize_absolute(position_1PD: Tensor, patches: int) -> Tensor:
    """(1, 1 + P, D), class token first -> (1, 1 + patches, D), both grids square; bicubic."""
    cls_11D, grid_1PD = position_1PD.split((1, position_1PD.shape[1] - 1), dim=1)
    old, new = side(grid_1PD.shape[1]), side(patches)
    grid_1Dhw = grid_1PD.transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(grid_1Dhw, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((cls_11D, resized.flatten(2).transpose(1, 2)), dim=1)


def resize_relative_table(table_QH: Tensor, new: int) -> Tensor:
    """(side * side, H) biases by relative place -> (new * new, H).

    The old offsets are thought to lie in geometric progression, dense near 0, so that the outermost one meets
    the outermost new one (BEiT's rule, which the published loader uses).

    Raises InputError for windows of fewer than 3 patches, through which no cubic spline goes.
    """
    from scipy.interpolate import RectBivariateSpline  # 38 MB that most who load a model never need

    old = side(table_QH.shape[0])
    if old < 4:
        raise InputError(
            f"windows of {(old + 1) // 2} patches are too small to be resized; at least 3 are needed"
        )
    offsets = geometric_offsets(old // 2, new // 2)
    wanted = np.arange(-(new // 2), new // 2 + 1, dtype=float)
    grid_HYX = table_QH.T.reshape(-1, old, old).double().numpy()
    resized = [RectBivariateSpline(offsets, offsets, grid_YX)(wanted, wanted).ravel() for grid_YX in grid_HYX]
    return torch.from_numpy(np.stack(resized, axis=1)).to(table_QH)


def geometric_offsets(steps: int, reach: int) -> np.ndarray:
    """(2 * steps + 1,) offsets around 0 whose distances grow by a constant factor up to about `reach`.

    The factor is found as the published loader finds it, between 1.01 and 1.5 and to 1e-6; a more exact one
    would give other tables.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2
        if (1 - factor**steps) / (1 - factor) > reach:
            high = factor
        else:
            low = factor
    away = np.cumsum(factor ** np.arange(steps))
    return np.concatenate((-away[::-1], [0.0], away))
