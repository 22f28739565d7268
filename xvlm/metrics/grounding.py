"""Grounding accuracy and mean IoU of predicted boxes, by plain IoU and by RefCOCO's inclusive pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xvlm.boxes import iou, iou_inclusive_pixels, xyxy_to_xywh
from xvlm.common.errors import InputError

IOU_THRESHOLD = 0.5
"""Smallest IoU of a correct box (RefCOCO's accuracy)."""


def overlaps(predicted_xyxy: Tensor, true_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the IoU of each pair of boxes, plain and by inclusive pixels (published evaluation): (N,) each.

    Args:
        predicted_xyxy, true_xyxy: (N, 4) in pixels.
    """
    predicted_N4, true_N4 = predicted_xyxy.double(), true_xyxy.double()
    return iou(predicted_N4, true_N4), iou_inclusive_pixels(xyxy_to_xywh(predicted_N4), xyxy_to_xywh(true_N4))


def accuracy(name: str, iou_N: Tensor, split_N: Sequence[str] = ()) -> dict[str, float]:
    """Return the share of N phrases whose (N,) IoU reaches the threshold, as `name`.

    Args:
        name: name of the metric.
        iou_N: (N,) IoUs.
        split_N: split of each phrase, or ""; each split also has its own accuracy, as `name_SPLIT`.
    Raises:
        InputError: N is 0.
    """
    if len(iou_N) == 0:
        raise InputError("grounding cannot be evaluated: there is no phrase")
    correct_N = (iou_N >= IOU_THRESHOLD).double()
    metrics = {name: correct_N.mean().item()}
    for split in sorted({split for split in split_N if split}):
        in_split_N = torch.tensor([one == split for one in split_N])
        metrics[f"{name}_{split}"] = correct_N[in_split_N].mean().item()
    return metrics


def grounding_metrics(iou_N: Tensor, inclusive_N: Tensor, split_N: Sequence[str] = ()) -> dict[str, float]:
    """Return the accuracy at IoU 0.5 by both IoUs, in total and of each split, the mean IoU and N.

    Args:
        iou_N, inclusive_N: (N,) from `overlaps`.
        split_N: see `accuracy`.
    Raises:
        InputError: N is 0.
    """
    return {
        **accuracy("grounding_acc50", iou_N, split_N),
        **accuracy("grounding_acc50_inclusive", inclusive_N, split_N),
        "grounding_miou": iou_N.mean().item(),
        "grounding_cases": float(len(iou_N)),
    }
