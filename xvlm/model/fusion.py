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
from xvlm.model.packing import Packing, first_tokens, gather_segments
from xvlm.model.text import Layer, TextConfig, TextFeatures


@dataclass(frozen=True)
class Read:
    """What is read of the last layer, besides the first token of every row.

    Attributes:
        row_M, place_M: (M,) int64 the caller's row of each such token, and its place within the row, from 1.
    """

    row_M: Tensor
    place_M: Tensor

    @classmethod
    def nothing(cls, like_R: Tensor) -> Read:
        """First tokens alone; on the device of any int64 (R,)."""
        return cls(like_R[:0], like_R[:0])


@dataclass(frozen=True)
class Fused:
    """Texts after the cross-modal encoder.

    Attributes:
        states_TD: (T, D) packed states, of all tokens or of those that are read; rows stand sorted by token
            set, not in the caller's order.
        first_R: (R,) index of the `[CLS]` state of each of the caller's rows among the packed states.
        read_M: (M,) index of each token that was asked for besides.
    """

    states_TD: Tensor
    first_R: Tensor
    read_M: Tensor

    def places(self, lengths_R: Tensor) -> Tensor:
        """(T,) where the tokens of the caller's rows, (R,) lengths, row after row, stand among the states."""
        shift_T = torch.repeat_interleave(self.first_R - first_tokens(lengths_R), lengths_R)
        return torch.arange(len(shift_T), device=shift_T.device) + shift_T

    @property
    def cls_RD(self) -> Tensor:
        """(R, D) x_cls of each row, in the caller's order."""
        return self.states_TD.index_select(0, self.first_R)


@dataclass(frozen=True)
class Kept:
    """Tokens that leave the last layer; what no one reads is not computed there.

    Attributes:
        token_K: (K,) which of the packed tokens, in order; `None`: all of them.
        first_R, read_M: see `Fused`.
    """

    token_K: Tensor | None
    first_R: Tensor
    read_M: Tensor

    @classmethod
    def of(cls, rows: Packing, order_R: Tensor, read: Read | None) -> Kept:
        """Of rows that stand in the order `order_R` (R,) of the caller's rows."""
        first_R = torch.empty_like(rows.first_S).index_copy_(0, order_R, rows.first_S)
        if read is None:
            return cls(None, first_R, first_R[:0])
        token_K, order_K = torch.cat((first_R, first_R[read.row_M] + read.place_M)).sort()
        place_K = torch.empty_like(order_K).index_copy_(
            0, order_K, torch.arange(len(order_K), device=order_K.device)
        )
        return cls(token_K, place_K[: len(first_R)], place_K[len(first_R) :])

    def looking(self, looking: Looking, concepts: ConceptTokens, concept_T: Tensor) -> Looking:
        """How the kept tokens look, where all (T,) look at `concept_T`."""
        return looking if self.token_K is None else Looking.of(concepts, concept_T[self.token_K])

    def fused(self, x_KD: Tensor) -> Fused:
        """With the (K, D) states."""
        return Fused(x_KD, self.first_R, self.read_M)


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
        read: Read | None = None,
    ) -> Fused:
        """Row r reads text `text_R[r]` (R,) with concept `concept_R[r]` (R,), both int64 indices.

        Args:
            keys_values: where they were made before (reranking, a photo asked often).
            read: of the last layer only these tokens are computed; `None`: all.
        """
        order_R = concepts.set_C[concept_R].argsort(stable=True)
        x_TD, rows = states_of_rows(texts, text_R[order_R])
        concept_T = concept_R[order_R][rows.segment_T]
        looking = Looking.of(concepts, concept_T)
        if keys_values is None:
            keys_values = self.keys_values(concepts)
        *layers, last = self.layers
        for layer, kv in zip(layers, keys_values[:-1], strict=True):
            x_TD = layer(x_TD, rows, kv, looking, causal)
        kept = Kept.of(rows, order_R, read)
        looking = kept.looking(looking, concepts, concept_T)
        return kept.fused(last(x_TD, rows, keys_values[-1], looking, causal, kept.token_K))


class PairEncoder(nn.Module):
    """Texts that speak of two images (NLVR2): every cross-modal layer stands twice, first looking at the left
    image, then at the right one, with key and value projections in common (published: `XVLMForNLVR`)."""

    def __init__(self, config: TextConfig, looked_width: int) -> None:
        super().__init__()
        widths = (looked_width, None)
        self.layers = nn.ModuleList(
            Layer(config, True, width) for _ in range(config.cross_layers) for width in widths
        )

    def forward(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        pair_R: Tensor,
        *,
        read: Read | None = None,
    ) -> Fused:
        """Row r reads text `text_R[r]` with pair `pair_R[r]`, both (R,) int64; `read` as in `CrossEncoder`.

        Of the 2 Q concepts, q and Q + q are the left and the right image of pair q, with token sets in the
        same order.
        """
        pairs = concepts.set_C.shape[0] // 2
        order_R = concepts.set_C[pair_R].argsort(stable=True)
        x_TD, rows = states_of_rows(texts, text_R[order_R])
        left_T = pair_R[order_R][rows.segment_T]
        right_T = left_T + pairs
        left, right = Looking.of(concepts, left_T), Looking.of(concepts, right_T)
        kept, token_K = Kept.of(rows, order_R, read), None
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            kv = cast(CrossAttention, first.cross).keys_values(concepts.tokens_SPD)
            if second is self.layers[-1]:
                token_K, right = kept.token_K, kept.looking(right, concepts, right_T)
            x_TD = second(first(x_TD, rows, kv, left), rows, kv, right, kept_K=token_K)
        return kept.fused(x_TD)


def states_of_rows(texts: TextFeatures, text_R: Tensor) -> tuple[Tensor, Packing]:
    """The packed states (T, D) of texts `text_R` (R,), repeats allowed, and their packing."""
    token_T, lengths_R, total = gather_segments(texts.packing.lengths_S, text_R)
    # index_select everywhere, never x[index]: the backward pass of that adds up in whatever order its
    # threads come, and no run could be repeated bit for bit.
    return texts.states_TD.index_select(0, token_T), Packing.of(lengths_R, total, texts.packing.longest)
