"""Grad-CAM maps: how much the attention of a text to each patch raises the matching logit.

They localize a text without a box head (X-VLM, appendix; ALBEF, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.heads import at_least_float
from xvlm.models.text.attention import ConceptTokens, CrossAttention
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.xvlm import XVLM


def grad_cam_maps(
    model: XVLM,
    texts: TextFeatures,
    text_R: Tensor,
    concepts: ConceptTokens,
    concept_R: Tensor,
    layers: Sequence[int],
) -> list[Tensor]:
    """Compute the map of text `text_R[r]` and concept `concept_R[r]` for each row r.

    A map is attention weights times the positive part of their gradient, averaged over the heads and the
    text's own tokens, in full precision.  (The published code also averages over padding, which scales a map
    by the ratio of its text's length to the longest one.)

    Args:
        text_R, concept_R: (R,) int64 indices.
        layers: layers of the cross-modal encoder, from 0; all maps come from one forward pass.
    Returns:
        (R, rows, columns) maps for each layer, at least 0.
    Raises:
        InputError: the model has no such layer.
        MissingHead: the model has no matching head.
    """
    check_layers(model, layers)
    crosses = [cast(CrossAttention, model.fusion.layers[layer].cross) for layer in layers]
    with torch.enable_grad():
        for cross in crosses:
            cross.recorded = []
        try:
            fused = model.fuse(texts, text_R, concepts, concept_R)
            recorded = [cross.recorded[0] for cross in crosses if cross.recorded]
        finally:
            for cross in crosses:
                cross.recorded = None
        total = model.match(fused.cls_RD)[:, 1].sum()
        all_weights = [bucket for _, weights in recorded for bucket in weights]
        gradients = iter(torch.autograd.grad(total, all_weights))
    lengths_R = texts.packing.lengths_S[text_R]
    index_T = fused.token_indices(lengths_R)
    row_T = torch.repeat_interleave(torch.arange(len(text_R), device=index_T.device), lengths_R)
    maps = []
    for padding, weights in recorded:
        # Key 0 is the summary token, which is no patch.
        map_TP = padding.from_buckets(
            (at_least_float(w_sHlP) * at_least_float(next(gradients)).clamp(min=0)).detach().mean(1)[..., 1:]
            for w_sHlP in weights
        )
        map_RP = map_TP.new_zeros(len(text_R), map_TP.shape[1]).index_add(0, row_T, map_TP[index_T])
        maps.append((map_RP / lengths_R[:, None]).unflatten(1, concepts.grid_hw))
    return maps


def check_layers(model: XVLM, layers: Sequence[int]) -> None:
    """Raise InputError for a layer that the cross-modal encoder does not have."""
    count = len(model.fusion.layers)
    for layer in layers:
        if not 0 <= layer < count:
            raise InputError(f"layer is {layer}; the cross-modal encoder has layers 0 to {count - 1}")
