"""What follows the graphs, in NumPy: the patches of a box, its corners, and which of several boxes stay."""

from __future__ import annotations

import numpy as np

from xvlm.inference.answers import MAX_BOXES, MAX_OVERLAP
from xvlm.models.calibration import Platt


def probability(platt: Platt, log_odds: np.ndarray) -> np.ndarray:
    """(...) log-odds -> (...) probabilities, without overflow."""
    x = platt.scale * log_odds.astype(np.float64) + platt.offset
    return np.exp(-np.logaddexp(0.0, -x))  # type: ignore[no-any-return]


def softmax(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., C), over the last dimension."""
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def joint_log_odds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (...) log-odds of two independent events together, from those of each."""
    a, b = -a.astype(np.float64), -b.astype(np.float64)
    return -np.logaddexp(np.logaddexp(a, b), a + b)  # type: ignore[no-any-return]


def to_xyxy(box_cxcywh: np.ndarray) -> np.ndarray:
    """(..., 4) centre and size -> (..., 4) corners within [0, 1]."""
    centre, half = box_cxcywh[..., :2], box_cxcywh[..., 2:] / 2
    return np.concatenate((centre - half, centre + half), -1).clip(0, 1)


def patches_touched(box_xyxy_N4: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """Return the (N, P) bool patches that (N, 4) boxes in [0, 1] touch, as `boxes.patches_touched` does."""
    rows, columns = grid_hw
    in_x, in_y = _touched(box_xyxy_N4[:, 0::2], columns), _touched(box_xyxy_N4[:, 1::2], rows)
    return (in_y[:, :, None] & in_x[:, None, :]).reshape(len(box_xyxy_N4), -1)


def _touched(ends_N2: np.ndarray, cells: int) -> np.ndarray:
    scaled = ends_N2.astype(np.float64) * cells
    nearest = scaled.round()
    scaled = np.where(np.abs(scaled - nearest) < 1e-5, nearest, scaled)
    first = np.floor(scaled[:, :1]).clip(0, cells - 1)
    last = np.maximum(first + 1, np.ceil(scaled[:, 1:]).clip(max=cells))
    cell = np.arange(cells)
    return (cell >= first) & (cell < last)  # type: ignore[no-any-return]


def peaks(objectness_C: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """Return the (X,) cells of the highest local maxima of objectness, best first."""
    map_hw = objectness_C.reshape(grid_hw)
    padded = np.pad(map_hw, 1, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((2, 3))
    cells = np.flatnonzero((around == map_hw).ravel())
    return cells[np.argsort(-objectness_C[cells], kind="stable")][:MAX_BOXES]


def without_overlaps(box_xyxy_X4: np.ndarray) -> list[int]:
    """Return which of (X, 4) boxes, best first, overlap no better one by more than `MAX_OVERLAP`."""
    area = (box_xyxy_X4[:, 2:] - box_xyxy_X4[:, :2]).clip(0).prod(1)
    chosen: list[int] = []
    for number, box in enumerate(box_xyxy_X4):
        others = box_xyxy_X4[chosen]
        sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
        shared = sides.clip(0).prod(1)
        union = area[chosen] + area[number] - shared
        if not (shared > MAX_OVERLAP * union).any():
            chosen.append(number)
    return chosen
