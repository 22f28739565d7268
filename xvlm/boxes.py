"""Box formats, overlap measures, and patch masks of boxes: plain functions on (..., 4) tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(box_cxcywh: Tensor) -> Tensor:
    """Convert (..., 4) centre, width, height to (..., 4) corners in the same unit."""
    cx, cy, w, h = box_cxcywh.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1)


def xyxy_to_cxcywh(box_xyxy: Tensor) -> Tensor:
    """Convert (..., 4) corners to (..., 4) centre, width, height in the same unit."""
    x0, y0, x1, y1 = box_xyxy.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


def xyxy_to_xywh(box_xyxy: Tensor) -> Tensor:
    """Convert (..., 4) corners to (..., 4) top-left corner, width, height in the same unit."""
    return torch.cat((box_xyxy[..., :2], box_xyxy[..., 2:] - box_xyxy[..., :2]), dim=-1)


def area(box_xyxy: Tensor) -> Tensor:
    """Return the (...) areas of (..., 4) boxes; a box with swapped corners has area 0."""
    size = (box_xyxy[..., 2:] - box_xyxy[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def surrounding_box(box_xyxy: Tensor) -> Tensor:
    """Return the (4,) box around (n, 4) boxes, at least one."""
    return torch.cat((box_xyxy[:, :2].amin(0), box_xyxy[:, 2:].amax(0)))


def iou_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (...) IoU and (...) union area of broadcastable (..., 4) boxes; 0/0 gives IoU 0."""
    top_left = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = area(torch.cat((top_left, bottom_right), dim=-1))
    union = area(a_xyxy) + area(b_xyxy) - inter
    # `where` alone would still send the NaN gradient of 0/0 backwards.
    safe = torch.where(union > 0, union, torch.ones_like(union))
    return torch.where(union > 0, inter / safe, torch.zeros_like(inter)), union


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the (...) intersection over union of two broadcastable (..., 4) tensors."""
    return iou_and_union(a_xyxy, b_xyxy)[0]


def generalized_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return the (...) GIoU, in (-1, 1], of two broadcastable (..., 4) tensors (Rezatofighi et al. 2019).

    Where the enclosing box is empty, it is the IoU.
    """
    overlap, union = iou_and_union(a_xyxy, b_xyxy)
    top_left = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = area(torch.cat((top_left, bottom_right), dim=-1))
    safe = torch.where(hull > 0, hull, torch.ones_like(hull))
    return overlap - torch.where(hull > 0, (hull - union) / safe, torch.zeros_like(hull))


def iou_inclusive_pixels(a_xywh: Tensor, b_xywh: Tensor) -> Tensor:
    """Return the (...) IoU of (..., 4) boxes as the RefCOCO tools compute it, with inclusive corner pixels.

    As in those tools, an overlap that is one pixel wide or high counts as none; 0/0 gives 0.
    """
    a_end = a_xywh[..., :2] + a_xywh[..., 2:] - 1
    b_end = b_xywh[..., :2] + b_xywh[..., 2:] - 1
    size = torch.minimum(a_end, b_end) - torch.maximum(a_xywh[..., :2], b_xywh[..., :2])
    inter = torch.where((size > 0).all(-1), (size + 1).prod(-1), torch.zeros_like(size[..., 0]))
    union = a_xywh[..., 2:].prod(-1) + b_xywh[..., 2:].prod(-1) - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(union))


def patches_touched(box_xyxy: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return the mask of the patches that each box touches, at least one (published `get_image_attns`).

    Args:
        box_xyxy: (N, 4) corners as fractions of the image.
        grid_hw: rows and columns of the patch grid.
    Returns:
        (N, h * w) bool, row-major.
    """
    rows, columns = grid_hw
    in_x = _cells_touched(box_xyxy[:, 0::2], columns)
    in_y = _cells_touched(box_xyxy[:, 1::2], rows)
    return (in_y[:, :, None] & in_x[:, None, :]).flatten(1)


def _cells_touched(ends_N2: Tensor, cells: int) -> Tensor:
    """Return the (N, cells) mask of the cells between two ends, as fractions of a side."""
    # Boxes are float32 fractions of pixel sizes: without rounding, an edge that lies on a patch border in
    # pixels may end up slightly beyond it and touch one patch too many.
    scaled = ends_N2.double() * cells
    nearest = scaled.round()
    scaled = torch.where((scaled - nearest).abs() < 1e-5, nearest, scaled)
    first = scaled[:, :1].floor().clamp(min=0, max=cells - 1)
    last = torch.maximum(first + 1, scaled[:, 1:].ceil().clamp(max=cells))
    cell = torch.arange(cells, device=ends_N2.device)
    return (cell >= first) & (cell < last)


def patch_centres(grid_hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Return the (h * w, 2) centres (x, y) of a grid's patches as fractions of the image, row-major."""
    rows, columns = grid_hw
    y, x = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) / rows,
        (torch.arange(columns, device=device) + 0.5) / columns,
        indexing="ij",
    )
    return torch.stack((x.flatten(), y.flatten()), dim=-1)
