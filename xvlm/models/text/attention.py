"""Self-attention within packed texts, and cross-attention from texts to the patches of their concepts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.models.heads import in_full_precision
from xvlm.models.text.dropout import apply_dropout
from xvlm.models.text.packing import Packing, Padding


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, recorded: list[Tensor] | None = None
) -> Tensor:
    """Compute softmax attention.

    Args:
        q: (S, H, Lq, K) queries.
        k, v: (S, H, Lk, K) keys and values.
        mask: bool, broadcastable to (S, H, Lq, Lk); True where a query may attend.  Every query needs a key.
        dropout: probability of dropping a weight; the caller passes 0 outside training.
        recorded: receives the (S, H, Lq, Lk) weights.
    Returns:
        (S, H, Lq, K).
    """
    if not q.is_cpu and recorded is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # On a CPU this is as fast as the fused kernel, a quarter to a third faster with dropout, and saves fewer
    # tensors for the backward pass (docs/performance.md).
    weights = attention_weights(q, k, mask)
    if recorded is not None:
        recorded.append(weights)
    return apply_dropout(weights, dropout) @ v


def attention_weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Return the (S, H, Lq, Lk) weights of the keys; arguments as in `attend`."""
    scores = attention_scores(q, k)
    return (scores + additive_mask(mask, scores.dtype)).softmax(-1)


def attend_with_mean(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, recorded: list[Tensor] | None = None
) -> Tensor:
    """Attend to the masked keys and to one more: their mean, whose value is the mean of their values.

    Arguments and result are those of `attend`; `mask` is (S, 1, Lq, Lk), and `recorded` receives
    (S, H, Lq, 1 + Lk) weights, that of the mean first.
    """
    weights, share = weights_with_mean(q, k, mask)
    if recorded is not None:
        recorded.append(weights)
    weights = apply_dropout(weights, dropout)
    return torch.addcmul(weights[..., 1:], weights[..., :1], share) @ v


def weights_with_mean(q: Tensor, k: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return (S, H, Lq, 1 + Lk) weights of mean and keys, and (S, 1, Lq, Lk) shares of keys in the mean."""
    share = (mask / mask.sum(-1, keepdim=True)).to(q.dtype)
    scores = attention_scores(q, k)
    mean = (scores * share).sum(-1, keepdim=True)
    scores = torch.cat((mean, scores + additive_mask(mask, scores.dtype)), dim=-1)
    return scores.softmax(-1).to(q.dtype), share


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """(S, H, Lq, K), (S, H, Lk, K) -> scaled products (S, H, Lq, Lk)."""
    # Scaled last, since a scaled copy of the queries would be saved for the backward pass.
    return (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a bool mask (S, 1, Lq, Lk) to one that is added to scores: 0 where it is True, else -inf."""
    # Adding it to the scores of all heads is ten times as fast as `masked_fill`.
    return torch.where(mask, 0.0, -math.inf).to(dtype)


def split_heads(x_SLD: Tensor, heads: int) -> Tensor:
    """(S, L, D) -> (S, H, L, K)."""
    return x_SLD.unflatten(-1, (heads, -1)).transpose(1, 2)


def split_projections(x_SLD: Tensor, heads: int, count: int) -> Tensor:
    """(S, L, count * D) -> (count, S, H, L, K): queries, keys or values from one linear layer."""
    return x_SLD.unflatten(-1, (count, heads, -1)).permute(2, 0, 3, 1, 4)


def merge_heads(x_SHLK: Tensor) -> Tensor:
    """(S, H, L, K) -> (S, L, D)."""
    return x_SHLK.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each text, with queries, keys and values in one linear layer."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x_TD: Tensor, packing: Packing, causal: bool = False, selected_O: Tensor | None = None
    ) -> Tensor:
        """Attend from all tokens (T, D) -> (T, D), or from the tokens `selected_O` (O,) alone -> (O, D).

        Args:
            causal: whether a token attends only to itself and the tokens before it.
        """
        dropout = self.dropout if self.training else 0.0
        mixed, padding = [], packing.padding
        for mask_sl, qkv_slD in zip(padding.masks, padding.tokens_by_bucket(self.qkv(x_TD)), strict=True):
            q, k, v = split_projections(qkv_slD, self.heads, 3)
            mask = mask_sl[:, None, None, :]
            if causal:
                mask = mask & mask_sl.new_ones(mask_sl.shape[1], mask_sl.shape[1]).tril()
            # In an empty segment a query at padding would attend to nothing, and NaN would reach the
            # gradients although its row is dropped.
            mask = mask | ~mask_sl[:, None, :, None]
            mixed.append(merge_heads(attend(q, k, v, mask, dropout)))
        mixed_TD = padding.from_buckets(mixed)
        return self.out(mixed_TD if selected_O is None else mixed_TD.index_select(0, selected_O))


@dataclass(frozen=True)
class ConceptTokens:
    """The context of cross-attention: for each concept its patches and one summary token.

    Concepts of one image share the image's tokens, and so the keys and values that are projected from them.

    Attributes:
        tokens_SPD: (S, P, D) token sets: the patches of an image (grid encoders: S images), or class token
            and patches of one concept (ViT: S concepts).
        set_C: (C,) int64 token set of each concept.
        mask_CP: (C, P) bool, True at tokens of the set that belong to the concept; at least one.
        mean_summary: True if the summary token is the mean of the concept's patches, which is in no set;
            False if it is the first token of the set.
        grid_hw: (rows, columns) of the patches.
        finer_SChw: (S, C, h, w) map of an earlier stage of each set's image, if the encoder has `finer_map`;
            boxes are predicted from it, and no text attends to it.
    """

    tokens_SPD: Tensor
    set_C: Tensor
    mask_CP: Tensor
    mean_summary: bool
    grid_hw: tuple[int, int]
    finer_SChw: Tensor | None = None

    @property
    def patches_SPD(self) -> Tensor:
        """The (S, P, D) patches of the token sets, without the class token if they have one."""
        return self.tokens_SPD if self.mean_summary else self.tokens_SPD[:, 1:]

    def select_used(self, concept_R: Tensor) -> ConceptTokens:
        """Select a concept for each row (R,), and drop the token sets that no row attends to."""
        used_S, set_R = self.set_C[concept_R].unique(return_inverse=True)
        tokens_SPD = self.tokens_SPD.index_select(0, used_S)
        return replace(self, tokens_SPD=tokens_SPD, set_C=set_R, mask_CP=self.mask_CP[concept_R])

    def with_own_sets(self, concept_R: Tensor) -> ConceptTokens:
        """Select a concept for each row (R,), each with a copy of its token set, in the order of the rows."""
        tokens_SPD = self.tokens_SPD.index_select(0, self.set_C[concept_R])
        set_R = torch.arange(len(concept_R), device=concept_R.device)
        return replace(self, tokens_SPD=tokens_SPD, set_C=set_R, mask_CP=self.mask_CP[concept_R])


@dataclass(frozen=True)
class CrossAttentionLayout:
    """Text tokens regrouped by the token set that they attend to.

    Attributes:
        sets: packing whose S segments are the tokens that attend to each token set.
        concept_T: (T,) int64 concept that each token attends to.
        mask_CP, mean_summary: as in `ConceptTokens`.
    """

    sets: Packing
    concept_T: Tensor
    mask_CP: Tensor
    mean_summary: bool

    @classmethod
    def from_concepts(cls, concepts: ConceptTokens, concept_T: Tensor) -> CrossAttentionLayout:
        """Let token t attend to concept `concept_T[t]` (T,); tokens must be sorted by token set."""
        set_T, count = concepts.set_C.index_select(0, concept_T), concepts.tokens_SPD.shape[0]
        # Not `bincount`, which waits for a GPU.
        start = torch.searchsorted(set_T, torch.arange(count + 1, device=set_T.device))
        sets = Packing(start.diff(), start[:-1], concept_T.shape[0], longest=None)
        return cls(sets, concept_T, concepts.mask_CP, concepts.mean_summary)

    @cached_property
    def masks(self) -> tuple[Tensor, ...]:
        """(s, l, P) bool for each bucket of the sets: True at tokens of a set that a query may attend to."""
        # Queries at padding attend to everything: their results are dropped, but must not be NaN.
        padding = self.sets.padding
        buckets = zip(padding.masks, padding.tokens_by_bucket(self.mask_CP[self.concept_T]), strict=True)
        return tuple(mask_slP | ~mask_sl[..., None] for mask_sl, mask_slP in buckets)


class CrossAttention(nn.Module):
    """Multi-head attention from packed text tokens to the tokens of a concept each.

    Keys and values are projected once for each token set, whatever the number of texts that attend to it.
    A summary token that is the mean of the concept's patches needs no projection of its own, since keys and
    values are affine: K(mean) = mean(K).  Its score is the mean of the patches' scores, and its attention
    weight is distributed evenly over the patches' values.

    Attributes:
        recorded: while it is a list, every call adds its padding and its attention weights, in full
            precision and without dropout (`grad_cam.py`).
    """

    def __init__(self, width: int, context_dim: int | None, heads: int, dropout: float) -> None:
        """Build the layers; without a `context_dim`, keys and values come from another module."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.recorded: list[tuple[Padding, list[Tensor]]] | None = None
        self.q = nn.Linear(width, width)
        if context_dim is not None:
            self.kv = nn.Linear(context_dim, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, tokens_SPD: Tensor) -> Tensor:
        """(S, P, context_dim) -> (2, S, H, P, K)."""
        return split_projections(self.kv(tokens_SPD), self.heads, 2)

    def forward(self, x_TD: Tensor, keys_values: Tensor, layout: CrossAttentionLayout) -> Tensor:
        """(T, D) packed tokens, (2, S, H, P, K) -> (T, D)."""
        attention = attend_with_mean if layout.mean_summary else attend
        dropout = self.dropout if self.training else 0.0
        padding = layout.sets.padding
        q_buckets = padding.tokens_by_bucket(self.q(x_TD))
        kv_buckets = padding.segments_by_bucket(keys_values, dim=1)
        mixed: list[Tensor] = []
        weights: list[Tensor] = []
        for q_slD, kv, mask_slP in zip(q_buckets, kv_buckets, layout.masks, strict=True):
            q, k, v, mask = split_heads(q_slD, self.heads), kv[0], kv[1], mask_slP[:, None]
            if self.recorded is None:
                out = attention(q, k, v, mask, dropout)
            else:  # in full precision, since boxes are ranked by the weights
                out = in_full_precision(partial(attention, mask=mask, dropout=0.0, recorded=weights), q, k, v)
            mixed.append(merge_heads(out))
        if self.recorded is not None:
            self.recorded.append((padding, weights))
        return self.out(padding.from_buckets(mixed))
