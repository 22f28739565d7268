"""Incremental decoding: one step computes the new tokens alone, with cached keys and values of all others."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.generation.decoder import Decoder
from xvlm.models.generation.search import LengthLimits
from xvlm.models.text.attention import (
    ConceptTokens,
    CrossAttention,
    SelfAttention,
    attend,
    attend_with_mean,
    merge_heads,
    split_heads,
    split_projections,
)
from xvlm.models.text.encoder import Layer


class IncrementalDecoder:
    """R rows that are decoded together: `rows_per_context` adjacent rows for each of S contexts.

    The decoder must be in evaluation mode.
    """

    def __init__(
        self, decoder: Decoder, context: ConceptTokens, concept_S: Tensor, rows_per_context: int = 1
    ) -> None:
        """Project the keys and values of the concepts `concept_S` (S,) of `context`."""
        self.decoder = decoder
        self.device = concept_S.device
        self.contexts = concept_S.shape[0]
        self.rows = self.contexts * rows_per_context
        self.length = 0
        self.attend_context = attend_with_mean if context.mean_summary else attend
        self.mask_S11P = context.mask_CP.index_select(0, concept_S)[:, None, None]
        set_S = context.set_C.index_select(0, concept_S)
        cross_keys_values = [kv.index_select(1, set_S) for kv in decoder.cross.keys_values(context)]
        self.layers = [cast(Layer, layer) for layer in (*decoder.text.layers, *decoder.cross.layers)]
        self.self_keys_values: list[Tensor | None] = [None] * len(self.layers)
        self.cross_keys_values = [None] * len(decoder.text.layers) + cross_keys_values

    def check_length(self, tokens: int) -> None:
        """Raise InputError if a text of so many tokens exceeds the decoder's positions."""
        if tokens > self.decoder.max_length:
            raise InputError(
                f"a text of {tokens} tokens exceeds the decoder's {self.decoder.max_length} positions"
            )

    def step(self, ids_RL: Tensor) -> Tensor:
        """Append L tokens (R, L) to all rows, and return the (R, V) logits of the token after them.

        Raises InputError if the rows exceed the decoder's positions.
        """
        end = self.length + ids_RL.shape[1]
        self.check_length(end)
        x_RLD = self.decoder.text.embedding.embed_padded(ids_RL, self.length)
        # A new token attends to all cached ones, to itself and to the new ones before it.
        mask_LL = torch.ones(end - self.length, end, dtype=torch.bool, device=ids_RL.device)
        mask_LL = mask_LL.tril(diagonal=self.length)
        for index, layer in enumerate(self.layers):
            attended_RLD = self._attend_text(layer.attention, index, x_RLD, mask_LL)
            kv = self.cross_keys_values[index]
            attend_context = None if kv is None else partial(self._attend_context, layer.cross, kv)
            x_RLD = layer.add_residuals(x_RLD, attended_RLD, attend_context)
        self.length = end
        return self.decoder.predict(x_RLD[:, -1])

    def _attend_text(self, attention: SelfAttention, layer: int, x_RLD: Tensor, mask_LL: Tensor) -> Tensor:
        q, k, v = split_projections(attention.qkv(x_RLD), attention.heads, 3)
        kv, cached = torch.stack((k, v)), self.self_keys_values[layer]
        kv = kv if cached is None else torch.cat((cached, kv), dim=3)
        self.self_keys_values[layer] = kv
        return attention.out(merge_heads(attend(q, kv[0], kv[1], mask_LL, 0.0)))

    def _attend_context(self, cross: CrossAttention, keys_values: Tensor, x_RLD: Tensor) -> Tensor:
        # The rows of a context are queries of one sequence, so that keys and values are not copied.
        x_SQD = x_RLD.reshape(self.contexts, -1, x_RLD.shape[-1])
        q_SHQK = split_heads(cross.q(x_SQD), cross.heads)
        mixed = self.attend_context(q_SHQK, keys_values[0], keys_values[1], self.mask_S11P, 0.0)
        return cross.out(merge_heads(mixed)).view_as(x_RLD)

    def reorder(self, row_R: Tensor) -> None:
        """Continue row `row_R[r]` (R,), of the same context, in row r."""
        self.self_keys_values = [kv.index_select(1, row_R) for kv in self.self_keys_values if kv is not None]


def next_scores(logits_RV: Tensor, ids_RL: Tensor, limits: LengthLimits) -> Tensor:
    """Return the (R, V) log-probabilities of the next token, with penalty and minimum length applied.

    Args:
        logits_RV: (R, V) logits of the next token.
        ids_RL: (R, L) tokens so far.
    """
    logits_RV = logits_RV.double()
    if limits.repetition_penalty != 1:
        repeated_RL = logits_RV.gather(1, ids_RL)
        penalty = limits.repetition_penalty
        penalized_RL = torch.where(repeated_RL > 0, repeated_RL / penalty, repeated_RL * penalty)
        logits_RV = logits_RV.scatter(1, ids_RL, penalized_RL)
    scores_RV = logits_RV.log_softmax(-1)
    if ids_RL.shape[1] < limits.min_length:
        scores_RV = scores_RV.index_fill(1, torch.tensor([limits.end], device=scores_RV.device), -math.inf)
    return scores_RV
