"""How well predicted boxes fit true ones."""

from __future__ import annotations

from torch import Tensor

from xvlm.boxes import iou


def grounding_metrics(predicted_xyxy: Tensor, true_xyxy: Tensor) -> dict[str, float]:
    """Accuracy at IoU 0.5 (share of boxes with at least that overlap), mean IoU and the number of cases.

    Args:
        predicted_xyxy, true_xyxy: (N, 4), same unit.
    Raises:
        ValueError: N is 0; no accuracy is invented for it.
    """
    if predicted_xyxy.shape[0] == 0:
        raise ValueError("there is no case to measure grounding on")
    overlap_N = iou(predicted_xyxy.double(), true_xyxy.double())
    return {
        "grounding_acc50": (overlap_N >= 0.5).double().mean().item(),
        "grounding_miou": overlap_N.mean().item(),
        "grounding_cases": float(len(overlap_N)),
    }
