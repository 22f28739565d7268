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

    @classmethod
    def of(cls, x_TD: Tensor, rows: Packing, order_R: Tensor) -> Fused:
        """From (T, D) states of rows that stand in the order `order_R` (R,) of the caller's rows."""
        return cls(x_TD, torch.empty_like(rows.first_S).index_copy_(0, order_R, rows.first_S))

    def places(self, lengths_R: Tensor) -> Tensor:
        """(T,) where the tokens of the caller's rows, (R,) lengths, row after row, stand among the states."""
        start_R = lengths_R.cumsum(0) - lengths_R
        shift_T = torch.repeat_interleave(self.first_R - start_R, lengths_R)
        return torch.arange(len(shift_T), device=shift_T.device) + shift_T

    @property
    def cls_RD(self) -> Tensor:
        """(R, D) x_cls of each row, in the caller's order."""
        return self.states_TD.index_select(0, self.first_R)


class CrossEncoder(nn.Module):
    """The second half of the text stack; in a decoder (`causal`) it looks at whatever is described."""

    def __init__(self, config: TextConfig, looked_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, True, looked_width) for _ in range(config.cross_layers))

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
        causal: bool = False,
    ) -> Fused:
        """Row r reads text `text_R[r]` (R,) with concept `concept_R[r]` (R,), both int64 indices.

        `keys_values` may be given when they were made before (reranking, a photo asked often).
        """
        order_R = concepts.set_C[concept_R].argsort(stable=True)
        x_TD, rows = states_of_rows(texts, text_R[order_R])
        looking = Looking.of(rows, concepts, concept_R[order_R])
        if keys_values is None:
            keys_values = self.keys_values(concepts)
        for layer, kv in zip(self.layers, keys_values, strict=True):
            x_TD = layer(x_TD, rows, kv, looking, causal)
        return Fused.of(x_TD, rows, order_R)


class PairEncoder(nn.Module):
    """Texts that speak of two images (NLVR2): every cross-modal layer stands twice, first looking at the left
    image, then at the right one, with key and value projections in common (published: `XVLMForNLVR`)."""

    def __init__(self, config: TextConfig, looked_width: int) -> None:
        super().__init__()
        widths = (looked_width, None)
        self.layers = nn.ModuleList(
            Layer(config, True, width) for _ in range(config.cross_layers) for width in widths
        )

    def forward(self, texts: TextFeatures, text_R: Tensor, concepts: ConceptTokens, pair_R: Tensor) -> Fused:
        """Row r reads text `text_R[r]` with pair `pair_R[r]`, both (R,) int64.

        Of the 2 Q concepts, q and Q + q are the left and the right image of pair q, with token sets in the
        same order.
        """
        pairs = concepts.set_C.shape[0] // 2
        order_R = concepts.set_C[pair_R].argsort(stable=True)
        x_TD, rows = states_of_rows(texts, text_R[order_R])
        left, right = (Looking.of(rows, concepts, pair_R[order_R] + side * pairs) for side in (0, 1))
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            kv = cast(CrossAttention, first.cross).keys_values(concepts.tokens_SPD)
            x_TD = second(first(x_TD, rows, kv, left), rows, kv, right)
        return Fused.of(x_TD, rows, order_R)


def states_of_rows(texts: TextFeatures, text_R: Tensor) -> tuple[Tensor, Packing]:
    """The packed states (T, D) of texts `text_R` (R,), repeats allowed, and their packing."""
    token_T, lengths_R, total = gather_segments(texts.packing.lengths_S, text_R)
    # index_select everywhere, never x[index]: the backward pass of that adds up in whatever order its
    # threads come, and no run could be repeated bit for bit.
    return texts.states_TD.index_select(0, token_T), Packing.of(lengths_R, total, texts.packing.longest)
