"""How well predicted boxes fit true ones: plainly, and as RefCOCO's tools count pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xvlm.boxes import iou, iou_inclusive_pixels, xyxy_to_xywh
from xvlm.errors import InputError

RIGHT_IOU = 0.5


def overlaps(predicted_xyxy: Tensor, true_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of each pair of boxes, plain and by inclusive pixels (the published evaluation's): (N,) each.

    Args:
        predicted_xyxy, true_xyxy: (N, 4) in pixels.
    """
    predicted_N4, true_N4 = predicted_xyxy.double(), true_xyxy.double()
    return iou(predicted_N4, true_N4), iou_inclusive_pixels(xyxy_to_xywh(predicted_N4), xyxy_to_xywh(true_N4))


def accuracy(name: str, iou_N: Tensor, split_N: Sequence[str] = ()) -> dict[str, float]:
    """The share of N cases, (N,) IoUs, that overlap by at least one half, as `name`.

    Args:
        split_N: the split of each case, "" for none; the cases of each are counted apart, as `name_SPLIT`.
    Raises:
        InputError: N is 0; no accuracy is invented for it.
    """
    if len(iou_N) == 0:
        raise InputError("there is no case to measure grounding on")
    right_N = (iou_N >= RIGHT_IOU).double()
    found = {name: right_N.mean().item()}
    for split in sorted({split for split in split_N if split}):
        inside_N = torch.tensor([one == split for one in split_N])
        found[f"{name}_{split}"] = right_N[inside_N].mean().item()
    return found


def grounding_metrics(iou_N: Tensor, inclusive_N: Tensor, split_N: Sequence[str] = ()) -> dict[str, float]:
    """Accuracy at IoU 0.5 by either way to count, of all and of each split; mean IoU; the number of cases.

    Args:
        iou_N, inclusive_N: (N,) from `overlaps`.
        split_N: as in `accuracy`, whose ValueError for no case is raised here too.
    """
    return {
        **accuracy("grounding_acc50", iou_N, split_N),
        **accuracy("grounding_acc50_inclusive", inclusive_N, split_N),
        "grounding_miou": iou_N.mean().item(),
        "grounding_cases": float(len(iou_N)),
    }
