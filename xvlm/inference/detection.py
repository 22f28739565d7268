"""Detection: everything in an image that a text describes, or nothing, each with a probability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from xvlm.boxes import cxcywh_to_xyxy
from xvlm.inference.answers import MAX_BOXES, MAX_OVERLAP
from xvlm.models.calibration import Calibration, joint_log_odds
from xvlm.models.detection import Detections
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import XVLM


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of N texts, each text's most probable first.

    Attributes:
        presence_N: (N,) probability that a text describes anything in its image.
        presence_log_odds_N: (N,) the same before calibration, as log-odds.
        row_X: (X,) int64 text of each box, in rising order.
        box_xyxy_X4: (X, 4) in [0, 1].
        probability_X: (X,) probability that a box surrounds something that its text describes.
        log_odds_X: (X,) the same before calibration, as log-odds.
    """

    presence_N: Tensor
    presence_log_odds_N: Tensor
    row_X: Tensor
    box_xyxy_X4: Tensor
    probability_X: Tensor
    log_odds_X: Tensor

    def by_text(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each text its boxes (k, 4), their probabilities (k,) and their log-odds (k,)."""
        counts = self.row_X.bincount(minlength=len(self.presence_N)).tolist()
        columns = (self.box_xyxy_X4, self.probability_X, self.log_odds_X)
        return list(zip(*(column.split(counts) for column in columns), strict=True))


@torch.no_grad()
def find_boxes(
    model: XVLM,
    features: ImageFeatures,
    texts: TextFeatures,
    image_N: Tensor,
    calibration: Calibration,
    threshold: float = 0.0,
    text_N: Tensor | None = None,
) -> FoundBoxes:
    """Find everything that each of N texts describes in its image.

    Args:
        features: B images.
        texts: encoded texts.
        image_N: (N,) int64 index of each text's image.
        calibration: how scores become probabilities.
        threshold: smallest probability of a box.
        text_N: (N,) int64 indices of the texts, if one stands for several images; by default each once.
    Raises:
        MissingHead: the model was not trained for detection.
    """
    images, _ = model.encode_whole(features)
    text_N = torch.arange(image_N.shape[0], device=image_N.device) if text_N is None else text_N
    found = model.detect(model.fuse_cls(texts, text_N, images, image_N), images, image_N)
    row_X, cell_X = peaks(found)
    box_X4 = cxcywh_to_xyxy(found.boxes(row_X, cell_X)).clamp(0, 1)
    log_odds_X = joint_log_odds(found.presence_R[row_X], found.objectness_RC[row_X, cell_X])
    probability_X = calibration.box.probability(log_odds_X)
    # Whatever is not a number (weights of a failed training) is not returned.
    usable_X = (probability_X >= threshold) & box_X4.isfinite().all(1)
    row_X, box_X4, log_odds_X = row_X[usable_X], box_X4[usable_X], log_odds_X[usable_X]
    best_X = batched_nms(box_X4, log_odds_X, row_X, MAX_OVERLAP)
    best_X = best_X[row_X[best_X].argsort(stable=True)]
    return FoundBoxes(
        calibration.presence.probability(found.presence_R),
        found.presence_R,
        row_X[best_X],
        box_X4[best_X],
        calibration.box.probability(log_odds_X[best_X]),
        log_odds_X[best_X],
    )


def peaks(found: Detections) -> tuple[Tensor, Tensor]:
    """Return the row and the cell (X,) of the highest local maxima of objectness, up to `MAX_BOXES` a row."""
    map_RChw = found.objectness_RC.unflatten(1, found.cells.grid_hw)[:, None]
    is_peak_RC = (F.max_pool2d(map_RChw, 3, 1, 1) == map_RChw).flatten(1)
    score_RC = found.objectness_RC.masked_fill(~is_peak_RC, -torch.inf)
    best = score_RC.topk(min(MAX_BOXES, score_RC.shape[1]), 1)
    row_Z, place_Z = best.values.isfinite().nonzero(as_tuple=True)
    return row_Z, best.indices[row_Z, place_Z]
