"""Grounding without boxes: of some candidate boxes, which one does a text look at when it matches?

A candidate's score is the sum of the attention map over it, divided by a power of its area (MattNet's
candidates and this score in the published evaluation; ALBEF, section 5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import dist
from xvlm.boxes import iou
from xvlm.data.sources import Source
from xvlm.evaluate.grounding import GroundingPrediction, encoded_cases, predicted
from xvlm.model.attention_map import attention_map
from xvlm.predict import Predictor, whole_images
from xvlm.records import BadRecord, BoxXYXY


def evaluate_maps(
    predictor: Predictor,
    source: Source,
    limit: int | None = None,
    layer: int | None = None,
    power: float = 0.5,
    batch: int = 16,
) -> tuple[dict[str, float], list[GroundingPrediction]]:
    """Every text of every boxed concept is a case; the candidates are the boxes of all cases of its image.

    Args:
        layer: of the cross-modal encoder, from 0; by default the middle one (published: the fourth of six).
        power: of the area that a score is divided by.
    Returns:
        (metrics, predictions); `weak_grounding_chance` is what a candidate chosen blindly would reach, and
        `weak_grounding_pointing` how often the map is highest inside the true box.
    """
    layer = len(predictor.model.fusion.layers) // 2 if layer is None else layer
    bad: list[BadRecord] = []
    predictions: list[GroundingPrediction] = []
    chance: list[float] = []
    inside: list[bool] = []
    for asked in encoded_cases(predictor, source, limit, batch, bad):
        rows = torch.arange(len(asked.cases), device=predictor.device)
        looked_at = whole_images(predictor.model, asked.features)
        maps = attention_map(predictor.model, asked.texts, rows, looked_at, asked.image_N, layer)
        boxes_of: list[dict[BoxXYXY, None]] = [{} for _ in asked.photos]
        for b, case in asked.cases:
            boxes_of[b][case.box_xyxy] = None
        for (b, case), map_hw in zip(asked.cases, maps.float().cpu(), strict=True):
            candidates = list(boxes_of[b])
            map_HW = enlarged(map_hw, asked.photos[b].opened.height, asked.photos[b].opened.width)
            score_C = candidate_scores(map_HW, candidates, power)
            best = int(score_C.argmax())
            one = predicted(case, candidates[best], float(score_C[best]))
            overlap_C = iou(
                torch.tensor(candidates), torch.tensor([case.box_xyxy]).expand(len(candidates), 4)
            )
            predictions.append(one)
            chance.append((overlap_C >= 0.5).float().mean().item())
            inside.append(highest_inside(map_HW, case.box_xyxy))
    predictions, bad = dist.collected(predictions), dist.collected(bad)
    chance, inside = dist.collected(chance), dist.collected(inside)
    if not predictions:
        raise ValueError("there is no case to measure grounding on")
    count = len(predictions)
    return {
        "weak_grounding_acc": sum(one.iou >= 0.5 for one in predictions) / count,
        "weak_grounding_chance": sum(chance) / count,
        "weak_grounding_pointing": sum(inside) / count,
        "weak_grounding_cases": float(count),
        "weak_grounding_bad_records": float(len(bad)),
    }, predictions


def enlarged(map_hw: Tensor, height: int, width: int) -> Tensor:
    """A map of patches (h, w) at the image's own size (height, width), bicubic as published."""
    return F.interpolate(map_hw[None, None], size=(height, width), mode="bicubic")[0, 0]


def candidate_scores(map_HW: Tensor, candidates: list[BoxXYXY], power: float) -> Tensor:
    """The map (height, width) summed over each of C boxes, over area ** `power`: (C,)."""
    height, width = map_HW.shape
    total_HW = F.pad(map_HW.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    scores = []
    for box in candidates:
        x0, x1 = (min(max(int(edge), 0), width) for edge in box[0::2])
        y0, y1 = (min(max(int(edge), 0), height) for edge in box[1::2])
        inside = total_HW[y1, x1] - total_HW[y0, x1] - total_HW[y1, x0] + total_HW[y0, x0]
        scores.append(inside / max(1.0, (box[2] - box[0]) * (box[3] - box[1])) ** power)
    return torch.stack(scores)


def highest_inside(map_HW: Tensor, box_xyxy: BoxXYXY) -> bool:
    """Whether the highest pixel of a map (height, width) lies in the box."""
    y, x = divmod(int(map_HW.argmax()), map_HW.shape[1])
    return box_xyxy[0] <= x < box_xyxy[2] and box_xyxy[1] <= y < box_xyxy[3]


evaluate = evaluate_maps
