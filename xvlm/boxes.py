"""Boxes: forms, overlap, and which patches of a grid one touches.  Plain functions on (..., 4) tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(box_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre, width, height -> (..., 4) corners, same unit."""
    cx, cy, w, h = box_cxcywh.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1)


def xyxy_to_cxcywh(box_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre, width, height, same unit."""
    x0, y0, x1, y1 = box_xyxy.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


def xywh_to_xyxy(box_xywh: Tensor) -> Tensor:
    """(..., 4) corner, width, height (the form of the published files) -> (..., 4) corners."""
    x, y, w, h = box_xywh.unbind(-1)
    return torch.stack((x, y, x + w, y + h), dim=-1)


def area(box_xyxy: Tensor) -> Tensor:
    """(..., 4) -> (...) area; 0 for a box whose corners are the wrong way round."""
    size = (box_xyxy[..., 2:] - box_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def iou_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """(...) IoU and (...) union area of each pair of two broadcastable (..., 4) tensors; 0/0 gives 0."""
    top_left = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = area(torch.cat((top_left, bottom_right), dim=-1))
    union = area(a_xyxy) + area(b_xyxy) - inter
    # the inner `where` keeps 0/0 out of the backward pass too
    safe = torch.where(union > 0, union, torch.ones_like(union))
    return torch.where(union > 0, inter / safe, torch.zeros_like(inter)), union


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union of each pair of two broadcastable (..., 4) tensors -> (...)."""
    return iou_and_union(a_xyxy, b_xyxy)[0]


def generalized_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019) of two (..., 4) boxes -> (...) in (-1, 1]; an empty hull gives IoU."""
    overlap, union = iou_and_union(a_xyxy, b_xyxy)
    top_left = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = area(torch.cat((top_left, bottom_right), dim=-1))
    safe = torch.where(hull > 0, hull, torch.ones_like(hull))
    return overlap - torch.where(hull > 0, (hull - union) / safe, torch.zeros_like(hull))


def xyxy_to_xywh(box_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) corner, width, height."""
    return torch.cat((box_xyxy[..., :2], box_xyxy[..., 2:] - box_xyxy[..., :2]), dim=-1)


def iou_inclusive_pixels(a_xywh: Tensor, b_xywh: Tensor) -> Tensor:
    """IoU as the RefCOCO tools count it: corners are pixel indices, both inclusive (…, 4) xywh -> (…).

    An overlap one pixel wide or high counts as none there, and so it does here; 0/0 gives 0.
    """
    a_end = a_xywh[..., :2] + a_xywh[..., 2:] - 1
    b_end = b_xywh[..., :2] + b_xywh[..., 2:] - 1
    size = torch.minimum(a_end, b_end) - torch.maximum(a_xywh[..., :2], b_xywh[..., :2])
    inter = torch.where((size > 0).all(-1), (size + 1).prod(-1), torch.zeros_like(size[..., 0]))
    union = a_xywh[..., 2:].prod(-1) + b_xywh[..., 2:].prod(-1) - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(union))


def patches_touched(box_xyxy: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Patches of an h x w grid that each box touches, half-open, at least one (published `get_image_attns`).

    Args:
        box_xyxy: (N, 4) in [0, 1] of the image.
    Returns:
        (N, h * w) bool, row-major.
    """
    rows, columns = grid_hw
    # Boxes are float32 fractions of pixel sizes: without the snap, an edge that lies on a patch border
    # in pixels may land a hair beside it and take one patch too many.
    scaled = box_xyxy.double() * torch.tensor([columns, rows, columns, rows], device=box_xyxy.device)
    nearest = scaled.round()
    scaled = torch.where((scaled - nearest).abs() < 1e-5, nearest, scaled)
    limit = torch.tensor([columns, rows], device=box_xyxy.device)
    first = torch.minimum(scaled[:, :2].floor().clamp(min=0), limit - 1)
    last = torch.maximum(first + 1, torch.minimum(scaled[:, 2:].ceil(), limit))
    x = torch.arange(columns, device=box_xyxy.device)
    y = torch.arange(rows, device=box_xyxy.device)
    in_x = (x >= first[:, :1]) & (x < last[:, :1])
    in_y = (y >= first[:, 1:]) & (y < last[:, 1:])
    return (in_y[:, :, None] & in_x[:, None, :]).flatten(1)


def patch_centres(grid_hw: tuple[int, int]) -> Tensor:
    """Centres (x, y) of the patches of an h x w grid: (h * w, 2) in [0, 1], row-major."""
    rows, columns = grid_hw
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
    )
    return torch.stack((x.flatten(), y.flatten()), dim=-1)
