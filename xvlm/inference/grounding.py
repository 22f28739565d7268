"""Grounding: the box of a text in an image, and how well texts match concepts."""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.batch import Concepts
from xvlm.boxes import cxcywh_to_xyxy
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import XVLM


@torch.no_grad()
def predict_boxes(
    model: XVLM,
    features: ImageFeatures,
    texts: TextFeatures,
    image_N: Tensor,
    text_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Predict the box of each of N texts in its image, then how well the text matches the box.

    Args:
        features: B images.
        texts: encoded texts.
        image_N: (N,) int64 index of each text's image.
        text_N: (N,) int64 indices of the texts, if one stands for several images; by default each once.
    Returns:
        boxes (N, 4), xyxy in [0, 1], and log-odds (N,) that the text matches its box; without a matching
        head those of presence, and without a detection head either NaN.
    """
    row_N = torch.arange(image_N.shape[0], device=image_N.device)
    images, _ = model.encode_whole(features)
    text_N = row_N if text_N is None else text_N
    cls_ND = model.fuse_cls(texts, text_N, images, image_N)
    box_N4 = cxcywh_to_xyxy(model.predict_box(cls_ND, images, image_N)).clamp(0, 1)
    if not hasattr(model, "matching"):
        if hasattr(model, "detection"):
            return box_N4, model.detect(cls_ND, images, image_N).presence_R
        return box_N4, torch.full_like(box_N4[:, 0], torch.nan)
    regions = Concepts(image_N, box_N4.float(), torch.ones_like(image_N, dtype=torch.bool))
    tokens, _ = model.encode_concepts(features, regions)
    return box_N4, match_logits(model, tokens, texts, row_N, text_N)


@torch.no_grad()
def match_logits(
    model: XVLM,
    concepts: ConceptTokens,
    texts: TextFeatures,
    concept_R: Tensor,
    text_R: Tensor,
    keys_values: list[Tensor] | None = None,
    published: bool = False,
) -> Tensor:
    """Compute the log-odds (R,) that text `text_R[r]` describes concept `concept_R[r]`.

    Args:
        concept_R: (R,) int64 indices of concepts.
        text_R: (R,) int64 indices of texts.
        keys_values: keys and values of the concepts, if they were computed before.
        published: return the logit of a match alone, by which the published evaluation ranks.
    """
    logits_R2 = model.match(model.fuse_cls(texts, text_R, concepts, concept_R, keys_values))
    return logits_R2[:, 1] if published else logits_R2[:, 1] - logits_R2[:, 0]
