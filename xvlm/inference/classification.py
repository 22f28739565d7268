"""Classification of texts: with an image (visual entailment), and with an image pair (NLVR2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xvlm.batch import Images
from xvlm.inference.model import InferenceModel
from xvlm.models.classification import class_logits, pair_logits
from xvlm.models.vision.encoder import ImageFeatures


@torch.no_grad()
def classify_texts(
    model: InferenceModel, features: ImageFeatures, texts: Sequence[str], images: Sequence[int]
) -> list[dict[str, float]]:
    """Return the probability of each label, by name, of each text about one of B images.

    Args:
        images: index of each text's image.
    """
    image_N = torch.tensor(images, device=model.device)
    logits_NY = class_logits(model.model, features, model.tokens(texts), image_N)
    labels = model.model.classifier.names
    return [dict(zip(labels, row, strict=True)) for row in logits_NY.softmax(1).tolist()]


@torch.no_grad()
def judge_statements(
    model: InferenceModel,
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    statements: Sequence[str],
    pairs: Sequence[int],
) -> list[float]:
    """Return the probability that each statement is true of its image pair.

    Args:
        left: (3, height, width) uint8 pixels of each pair's left image.
        right: the same of the right images.
        pairs: index of each statement's pair.
    """
    images = Images(torch.stack([*left, *right])).to(model.device)
    pair_N = torch.tensor(pairs, device=model.device)
    features = model.model.encode_images(images)
    return pair_logits(model.model, features, model.tokens(statements), pair_N).softmax(1)[:, 1].tolist()
