"""Where a text looks when it matches: the gradient-weighted cross-attention of one layer (Grad-CAM).

Grounding without boxes (X-VLM, appendix; ALBEF, section 5): what raises the matching logit, patch by patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from xvlm.errors import InputError
from xvlm.model.attention import ConceptTokens, CrossAttention
from xvlm.model.heads import at_least_float
from xvlm.model.text import TextFeatures
from xvlm.model.xvlm import XVLM


def attention_maps(
    model: XVLM,
    texts: TextFeatures,
    text_R: Tensor,
    concepts: ConceptTokens,
    concept_R: Tensor,
    layers: Sequence[int],
) -> list[Tensor]:
    """Rows (R,), text `text_R[r]` with concept `concept_R[r]` -> for each layer (R, rows, columns) maps, at
    least 0; all of one pass.

    Attention weights times what of their gradient raises the matching logit, averaged over heads and the
    text's own tokens, never in half precision.  (The published code averages over padded tokens too, which
    scales a map by its text's share of the longest one's length.)

    Args:
        layers: of the cross-modal encoder, from 0.
    Raises:
        InputError: the model has no such layer.
        MissingPart: it has no matching head.
    """
    check_layers(model, layers)
    crosses = [cast(CrossAttention, model.fusion.layers[layer].cross) for layer in layers]
    with torch.enable_grad():
        for cross in crosses:
            cross.watched = []
        try:
            fused = model.fuse(texts, text_R, concepts, concept_R)
            watched = [cross.watched[0] for cross in crosses if cross.watched]
        finally:
            for cross in crosses:
                cross.watched = None
        total = model.match(fused.cls_RD)[:, 1].sum()
        weights_by_layer = [weights for _, weights in watched]
        gradients = iter(torch.autograd.grad(total, [one for several in weights_by_layer for one in several]))
    lengths_R = texts.packing.lengths_S[text_R]
    place_T = fused.places(lengths_R)
    row_T = torch.repeat_interleave(torch.arange(len(text_R), device=place_T.device), lengths_R)
    maps = []
    for sets, weights in watched:
        # Slot 0 is the summary token, which has no place.
        map_TP = sets.from_bins(
            (at_least_float(w_sHlP) * at_least_float(next(gradients)).clamp(min=0)).detach().mean(1)[..., 1:]
            for w_sHlP in weights
        )
        map_RP = map_TP.new_zeros(len(text_R), map_TP.shape[1]).index_add(0, row_T, map_TP[place_T])
        maps.append((map_RP / lengths_R[:, None]).unflatten(1, concepts.grid_hw))
    return maps


def check_layers(model: XVLM, layers: Sequence[int]) -> None:
    """Raises InputError for a layer that the cross-modal encoder does not have."""
    count = len(model.fusion.layers)
    for layer in layers:
        if not 0 <= layer < count:
            raise InputError(f"layer is {layer}; the cross-modal encoder has layers 0 to {count - 1}")
