"""Texts that have one of some labels, given an image (visual entailment)."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.model.vision import ImageFeatures
from xvlm.model.xvlm import XVLM


def label_logits(model: XVLM, features: ImageFeatures, texts: Texts, image_N: Tensor) -> Tensor:
    """N texts, of which `image_N` (N,) int64 says the image -> (N, C) logits of the model's C labels."""
    concepts, _ = model.encode_whole(features)
    text_N = torch.arange(len(texts), device=image_N.device)
    return model.labels(model.fuse_cls(model.encode_texts(texts), text_N, concepts, image_N))
