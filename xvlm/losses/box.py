"""Box loss: L1 and GIoU of the box that is predicted for a text in the whole image (X-VLM, equation 2)."""

from __future__ import annotations

from torch import Tensor

from xvlm import distributed
from xvlm.boxes import cxcywh_to_xyxy, generalized_iou


def box_losses(
    predicted_cxcywh: Tensor, target_cxcywh: Tensor, faithful: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the L1 loss (summed over the four coordinates) and 1 - GIoU, both means over the global batch.

    Args:
        predicted_cxcywh, target_cxcywh: (N, 4) in [0, 1]; N may be 0.
        faithful: published behaviour: one degenerate box switches GIoU off for the whole batch.
    Returns:
        Two () tensors, this rank's parts of the global means.
    """
    l1 = (predicted_cxcywh - target_cxcywh).abs().sum()
    predicted, target = cxcywh_to_xyxy(predicted_cxcywh), cxcywh_to_xyxy(target_cxcywh)
    giou_loss_N = 1 - generalized_iou(predicted, target)
    if faithful:
        valid = (predicted[:, 2:] >= predicted[:, :2]).all() & (target[:, 2:] >= target[:, :2]).all()
        giou_loss_N = giou_loss_N * valid
    count = predicted_cxcywh.shape[0]
    return distributed.global_mean(l1, count), distributed.global_mean(giou_loss_N.sum(), count)
