"""The cross-modal encoder: text states attend to the patches of a concept, layer by layer.

One call serves all passes of a step (positives, negatives, masked texts, boxes): a row is any text with any
concept.  Rows are sorted by the token set that they attend to, so that keys and values are projected once for
each image and layer and never copied for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from xvlm.models.text.attention import ConceptTokens, CrossAttentionLayout
from xvlm.models.text.encoder import Layer, TextConfig, TextFeatures
from xvlm.models.text.packing import Packing, segment_starts, select_segments


@dataclass(frozen=True)
class OutputPositions:
    """Tokens besides `[CLS]` whose final states are needed.

    Attributes:
        row_M: (M,) int64 row of each token.
        position_M: (M,) int64 position of each token within its row, at least 1.
    """

    row_M: Tensor
    position_M: Tensor

    @classmethod
    def none(cls, like_R: Tensor) -> OutputPositions:
        """Return no positions, on the device of an int64 tensor (R,): only `[CLS]` states are needed."""
        return cls(like_R[:0], like_R[:0])


@dataclass(frozen=True)
class FusedTexts:
    """Texts after the cross-modal encoder.

    Attributes:
        states_TD: (T, D) packed states of all tokens, or (O, D) of the selected ones; rows are sorted by
            token set.
        cls_index_R: (R,) index of each row's `[CLS]` state, in the caller's order of the rows.
        output_index_M: (M,) index of the state of each of the `OutputPositions`.
    """

    states_TD: Tensor
    cls_index_R: Tensor
    output_index_M: Tensor

    def token_indices(self, lengths_R: Tensor) -> Tensor:
        """Return the (T,) index of each token's state, in the caller's order of rows with (R,) lengths."""
        shift_T = torch.repeat_interleave(self.cls_index_R - segment_starts(lengths_R), lengths_R)
        return torch.arange(len(shift_T), device=shift_T.device) + shift_T

    @property
    def cls_RD(self) -> Tensor:
        """(R, D) x_cls of each row, in the caller's order."""
        return self.states_TD.index_select(0, self.cls_index_R)


class CrossEncoder(nn.Module):
    """The second half of the text stack: each layer attends to the text, then to its concept."""

    def __init__(self, config: TextConfig, context_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, True, context_dim) for _ in range(config.cross_layers))

    def keys_values(self, concepts: ConceptTokens) -> list[Tensor]:
        """Project the keys and values (2, S, H, P, K) of all token sets, for each layer."""
        return [cast(Layer, layer).keys_values(concepts.tokens_SPD) for layer in self.layers]

    def forward(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        concept_R: Tensor,
        keys_values: list[Tensor] | None = None,
        causal: bool = False,
        outputs: OutputPositions | None = None,
        total: int | None = None,
    ) -> FusedTexts:
        """Fuse text `text_R[r]` with concept `concept_R[r]` in each row r.

        Args:
            text_R, concept_R: (R,) int64 indices.
            keys_values: result of `keys_values`, if it was computed before.
            causal: whether a token attends only to itself and the text tokens before it.
            outputs: tokens besides `[CLS]` that the last layer computes; `None`: all.
            total: tokens of all rows, or an upper bound; without it, the number is read from the device.
        """
        order_R = concepts.set_C[concept_R].argsort(stable=True)
        x_TD, rows = select_texts(texts, text_R[order_R], total)
        concept_T = concept_R[order_R][rows.segment_T]
        layout = CrossAttentionLayout.from_concepts(concepts, concept_T)
        contexts = keys_values or [concepts.tokens_SPD] * len(self.layers)
        *layers, last = self.layers
        for layer, context in zip(layers, contexts[:-1], strict=True):
            x_TD = layer(x_TD, rows, context, layout, causal)
        token_O, cls_index_R, output_index_M = select_outputs(rows, order_R, outputs)
        if token_O is not None:
            layout = CrossAttentionLayout.from_concepts(concepts, concept_T[token_O])
        x_TD = last(x_TD, rows, contexts[-1], layout, causal, token_O)
        return FusedTexts(x_TD, cls_index_R, output_index_M)


class PairEncoder(nn.Module):
    """The cross-modal encoder over image pairs (NLVR2).

    Each layer of `CrossEncoder` becomes two layers, the first over the left image and the second over the
    right one, with the key and value projections in common (published: `XVLMForNLVR`).
    """

    def __init__(self, config: TextConfig, context_dim: int) -> None:
        super().__init__()
        context_dims = (context_dim, None)
        self.layers = nn.ModuleList(
            Layer(config, True, dim) for _ in range(config.cross_layers) for dim in context_dims
        )

    def forward(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        concepts: ConceptTokens,
        pair_R: Tensor,
        *,
        outputs: OutputPositions | None = None,
    ) -> FusedTexts:
        """Fuse text `text_R[r]` with image pair `pair_R[r]` in each row r.

        Args:
            text_R, pair_R: (R,) int64 indices.
            concepts: 2 * Q images, the left ones of all pairs before the right ones, with token sets in the
                same order.
            outputs: see `CrossEncoder.forward`.
        """
        pairs = concepts.set_C.shape[0] // 2
        order_R = concepts.set_C[pair_R].argsort(stable=True)
        x_TD, rows = select_texts(texts, text_R[order_R])
        left_T = pair_R[order_R][rows.segment_T]
        right_T = left_T + pairs
        left = CrossAttentionLayout.from_concepts(concepts, left_T)
        right = CrossAttentionLayout.from_concepts(concepts, right_T)
        token_O, cls_index_R, output_index_M = select_outputs(rows, order_R, outputs)
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            kv = cast(Layer, first).keys_values(concepts.tokens_SPD)
            x_TD = first(x_TD, rows, kv, left)
            selected_O = token_O if second is self.layers[-1] else None
            if selected_O is not None:
                right = CrossAttentionLayout.from_concepts(concepts, right_T[selected_O])
            x_TD = second(x_TD, rows, kv, right, selected_O=selected_O)
        return FusedTexts(x_TD, cls_index_R, output_index_M)


def select_texts(texts: TextFeatures, text_R: Tensor, total: int | None = None) -> tuple[Tensor, Packing]:
    """Return the packed states (T, D) of texts `text_R` (R,), repeats allowed, and their packing.

    `total` is T or an upper bound; see `select_segments`.
    """
    token_T, packing = select_segments(texts.packing, text_R, total)
    # Always index_select, never x[index]: the backward pass of the latter adds in the order in which threads
    # arrive, and no run could be repeated bit for bit.
    return texts.states_TD.index_select(0, token_T), packing


def select_outputs(
    rows: Packing, order_R: Tensor, outputs: OutputPositions | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Select the tokens that the last layer computes, of rows that are in the order `order_R` (R,).

    Returns:
        the (O,) selected tokens, or `None` for all; and the last two fields of `FusedTexts`.
    """
    start_R = torch.empty_like(rows.start_S).index_copy_(0, order_R, rows.start_S)
    if outputs is None:
        return None, start_R, start_R[:0]
    wanted = torch.cat((start_R, start_R[outputs.row_M] + outputs.position_M))
    token_O, order_O = wanted.sort()
    index_O = torch.empty_like(order_O).index_copy_(
        0, order_O, torch.arange(len(order_O), device=order_O.device)
    )
    return token_O, index_O[: len(start_R)], index_O[len(start_R) :]
