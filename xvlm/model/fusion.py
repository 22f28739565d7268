"""The cross-modal encoder: text states look at the patches of a concept, layer by layer.

One call serves every pass of a step (positives, both negatives, masked, box): a row is any text with any
concept.  Rows are sorted by the token set they look at, so that keys and values are projected once
per image and layer and never copied per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from xvlm.model.attention import ConceptTokens, CrossAttention, Looking
from xvlm.model.packing import Packing, gather_segments
from xvlm.model.text import Layer, TextConfig, TextFeatures


@dataclass(frozen=True)
class Fused:
    """Texts after the cross-modal encoder.

    Attributes:
        states_TD: (T, D) packed states; rows stand sorted by token set, not in the caller's order.
        first_R: (R,) index of the `[CLS]` state of each of the caller's rows among the packed states.
    """

    states_TD: Tensor
    first_R: Tensor

    @property
    def cls_RD(self) -> Tensor:
        """(R, D) x_cls of each row, in the caller's order."""
        return self.states_TD.index_select(0, self.first_R)


class CrossEncoder(nn.Module):
    """The second half of the text stack."""

    def __init__(self, config: TextConfig, vision_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, vision_width) for _ in range(config.cross_layers))

    def keys_values(self, concepts: ConceptTokens) -> list[Tensor]:
        """Per layer (2, S, H, P, K): what texts look at, made once however many texts look."""
        crosses = [cast(CrossAttention, layer.cross) for layer in self.layers]
        return [cross.keys_values(concepts.tokens_SPD) for cross in crosses]

    def forward(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Fused:
        """Row r reads text `text_R[r]` (R,) with concept `concept_R[r]` (R,), both int64 indices.

        `keys_values` may be given when they were made before (reranking, a photo asked often).
        """
        order_R = concepts.set_C[concept_R].argsort(stable=True)
        text_R, concept_R = text_R[order_R], concept_R[order_R]
        token_T, lengths_R, total = gather_segments(texts.packing.lengths_S, text_R)
        rows = Packing.of(lengths_R, total, texts.packing.longest)
        looking = Looking.of(rows, concepts, concept_R)
        if keys_values is None:
            keys_values = self.keys_values(concepts)

        # index_select everywhere, never x[index]: the backward pass of that adds up in whatever order its
        # threads come, and no run could be repeated bit for bit.
        x_TD = texts.states_TD.index_select(0, token_T)
        for layer, kv in zip(self.layers, keys_values, strict=True):
            x_TD = layer(x_TD, rows, kv, looking)
        first_R = torch.empty_like(rows.first_S).index_copy_(0, order_R, rows.first_S)
        return Fused(x_TD, first_R)
