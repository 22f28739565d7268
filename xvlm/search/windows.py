"""Vectors of an image: one of the whole, and one of each window of a pyramid.

An object that covers a small part of an image is a small part of its whole vector.  The windows' vectors are
those of regions in pre-training (X-VLM, section 3.1), so a grid encoder has them from the patches it computed
for the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xvlm.batch import Concepts
from xvlm.inference.model import InferenceModel
from xvlm.models.vision.encoder import ImageFeatures

LEVELS = (2, 3)
"""Windows a side, of each level of the pyramid; those of a level overlap by half."""


def pyramid(levels: Sequence[int] = LEVELS) -> Tensor:
    """Return the (C, 4) boxes of the windows, xyxy in [0, 1], level by level, row by row.

    A level of n windows a side has windows of width and height 2 / (n + 1): n + 1 halves fill a side.
    """
    boxes = []
    for count in levels:
        half = 1 / (count + 1)
        boxes += [
            [column * half, row * half, (column + 2) * half, (row + 2) * half]
            for row in range(count)
            for column in range(count)
        ]
    return torch.tensor(boxes).view(-1, 4)


@torch.no_grad()
def image_vectors(predictor: InferenceModel, features: ImageFeatures, box_xyxy_C4: Tensor) -> Tensor:
    """Return (B, 1 + C, E) unit vectors of each image and of its windows."""
    model, (count, images) = predictor.model, (len(box_xyxy_C4), len(features))
    concepts = Concepts(
        torch.arange(images).repeat_interleave(count),
        box_xyxy_C4.repeat(images, 1),
        torch.ones(images * count, dtype=torch.bool),
    )
    _, cls_ND = model.encode_concepts(features, concepts.to(predictor.device))
    vector_NE = model.contrastive.embed_concepts(cls_ND).float()
    windows, whole = vector_NE.split((images * count, images))
    return torch.cat((whole[:, None], windows.unflatten(0, (images, count))), 1)
