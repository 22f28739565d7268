"""Box loss: L1 and GIoU of the predicted place of a text in the whole image (X-VLM, equation 2)."""

from __future__ import annotations

from torch import Tensor

from xvlm import dist
from xvlm.boxes import cxcywh_to_xyxy, generalized_iou


def box_losses(
    predicted_cxcywh: Tensor, target_cxcywh: Tensor, faithful: bool = False
) -> tuple[Tensor, Tensor]:
    """L1 (summed over the four numbers) and 1 - GIoU, both over the global number of boxes.

    Args:
        predicted_cxcywh, target_cxcywh: (N, 4) in [0, 1]; N may be 0.
        faithful: one degenerate box switches GIoU off for the whole batch, as published.
    Returns:
        two () tensors, this rank's parts.
    """
    l1 = (predicted_cxcywh - target_cxcywh).abs().sum()
    predicted, target = cxcywh_to_xyxy(predicted_cxcywh), cxcywh_to_xyxy(target_cxcywh)
    gap_N = 1 - generalized_iou(predicted, target)
    if faithful:
        fine = (predicted[:, 2:] >= predicted[:, :2]).all() & (target[:, 2:] >= target[:, :2]).all()
        gap_N = gap_N * fine
    count = predicted_cxcywh.shape[0]
    return dist.global_mean(l1, count), dist.global_mean(gap_N.sum(), count)
