"""Classification of texts with an image (visual entailment) or with an image pair (NLVR2)."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.models.heads import Classifier
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import XVLM


def class_logits(
    model: XVLM, features: ImageFeatures, texts: Texts, image_N: Tensor, head: str = "classifier"
) -> Tensor:
    """Return the (N, Y) logits of a classifier for N texts with an image each.

    Args:
        image_N: (N,) int64 image of each text.
        head: name of the classifier.
    """
    return model.head(head, Classifier)(_fused_cls(model, features, texts, image_N))


def pair_logits(model: XVLM, features: ImageFeatures, statements: Texts, pair_N: Tensor) -> Tensor:
    """Return the (N, 2) logits of (false, true) for N statements about image pairs.

    Args:
        features: both images of each pair, all left images before the right ones.
        pair_N: (N,) int64 pair of each statement.
    """
    return model.classify_pairs(_fused_cls(model, features, statements, pair_N))


def _fused_cls(model: XVLM, features: ImageFeatures, texts: Texts, concept_N: Tensor) -> Tensor:
    """Return x_cls (N, D) of each text with the image, or image pair, of the given index (N,)."""
    concepts, _ = model.encode_whole(features)
    text_N = torch.arange(len(texts), device=concept_N.device)
    return model.fuse_cls(model.encode_texts(texts), text_N, concepts, concept_N)
