"""The losses of the detection head in a step of pre-training."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.boxes import xyxy_to_cxcywh
from xvlm.losses.box import box_losses
from xvlm.losses.detection import centre_cells, centre_heat, objectness_loss, presence_loss
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.pretraining_batch import DetectionTargets

DETECTION_WEIGHTS = {"presence": 1.0, "objectness": 1.0, "found_bbox": 5.0, "found_giou": 2.0}
"""Weights of the losses among each other; those of boxes are DETR's (Carion et al., ECCV 2020)."""


def detection_losses(
    model: XVLM, cls_RD: Tensor, concepts: ConceptTokens, image_R: Tensor, targets: DetectionTargets
) -> dict[str, Tensor]:
    """Return the losses of `DETECTION_WEIGHTS`, each this rank's part of the global mean.

    Args:
        cls_RD: (R, D) x_cls of the texts that have a box, then of the A absent texts, with whole images.
        concepts: concepts that hold the whole images.
        image_R: (R,) int64 index of each row's whole image among the concepts.
        targets: what is to be found.
    """
    found = model.detect(cls_RD, concepts, image_R)
    rows, absent = len(image_R), len(targets.absent_image_A)
    is_present_R = torch.arange(rows, device=cls_RD.device) < rows - absent
    box_X4 = xyxy_to_cxcywh(targets.box_xyxy_X4)
    heat_RC = centre_heat(box_X4, targets.row_X, rows, found.cells.grid_hw)
    cell_X = centre_cells(box_X4, found.cells.grid_hw)
    bbox, giou = box_losses(found.boxes(targets.row_X, cell_X), box_X4)
    return {
        "presence": presence_loss(found.presence_R, is_present_R),
        "objectness": objectness_loss(found.objectness_RC, heat_RC, len(box_X4)),
        "found_bbox": bbox,
        "found_giou": giou,
    }
