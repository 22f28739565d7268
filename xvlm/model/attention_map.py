"""Where a text looks when it matches: the gradient-weighted cross-attention of one layer (Grad-CAM).

Grounding without boxes (X-VLM, appendix; ALBEF, section 5): what raises the matching logit, patch by patch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from xvlm.model.attention import ConceptTokens, CrossAttention
from xvlm.model.text import TextFeatures
from xvlm.model.xvlm import XVLM


def attention_map(
    model: XVLM, texts: TextFeatures, text_R: Tensor, concepts: ConceptTokens, concept_R: Tensor, layer: int
) -> Tensor:
    """Rows (R,), text `text_R[r]` with concept `concept_R[r]` -> (R, rows, columns) maps, at least 0.

    Attention weights times what of their gradient raises the matching logit, averaged over heads and the
    text's own tokens.  (The published code averages over padded tokens too, which scales a map by its text's
    share of the longest one's length.)

    Args:
        layer: of the cross-modal encoder, from 0.
    Raises:
        ValueError: the model has no such layer.
    """
    layers = model.fusion.layers
    if not 0 <= layer < len(layers):
        raise ValueError(f"layer is {layer}; the cross-modal encoder has layers 0 to {len(layers) - 1}")
    cross = cast(CrossAttention, layers[layer].cross)
    with torch.enable_grad():
        cross.watched = []
        try:
            fused = model.fuse(texts, text_R, concepts, concept_R)
            sets, weights = cross.watched[0]
        finally:
            cross.watched = None
        total = model.match(fused.cls_RD)[:, 1].sum()
        gradients = torch.autograd.grad(total, weights)
    # Slot 0 is the summary token, which has no place.
    map_TP = sets.from_bins(
        (w_sHlP * g_sHlP.clamp(min=0)).detach().mean(1)[..., 1:]
        for w_sHlP, g_sHlP in zip(weights, gradients, strict=True)
    )
    lengths_R = texts.packing.lengths_S[text_R]
    row_T = torch.repeat_interleave(torch.arange(len(text_R), device=map_TP.device), lengths_R)
    map_RP = map_TP.new_zeros(len(text_R), map_TP.shape[1]).index_add(
        0, row_T, map_TP[fused.places(lengths_R)]
    )
    return (map_RP / lengths_R[:, None]).unflatten(1, concepts.grid_hw)
