"""Self-attention over packed texts, cross-attention from texts to the patches of their concepts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.model.dropout import drop
from xvlm.model.heads import at_least_float, full_precision
from xvlm.model.packing import Packing


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Softmax attention.

    Args:
        q: (S, H, Lq, K); k, v: (S, H, Lk, K).
        mask: bool, broadcastable to (S, H, Lq, Lk); True where a query may look.  Every query needs one.
        dropout: probability, already 0 outside training.
    Returns:
        (S, H, Lq, K).
    """
    if q.is_cpu:
        # As fast as the fused kernel there, a quarter to a third faster where weights are dropped, and fewer
        # copies are kept for the backward pass (docs/performance.md).
        return drop(weights_of(q, k, mask), dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def weights_of(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Args as `attend` -> (S, H, Lq, Lk) attention to the keys."""
    scores = scaled_products(q, k)
    return (scores + shut(mask, scores.dtype)).softmax(-1)


def scaled_products(q: Tensor, k: Tensor) -> Tensor:
    """(S, H, Lq, K), (S, H, Lk, K) -> scores (S, H, Lq, Lk).  Scaled afterwards: a scaled copy of the queries
    would be kept for the backward pass."""
    return (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5


def shut(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(S, 1, Lq, Lk) True where a query may look -> what is added to its scores: 0 there, elsewhere -inf.

    The scores of all heads, many times as large, go through an addition ten times as fast as through
    `masked_fill`.
    """
    return torch.where(mask, 0.0, -math.inf).to(dtype)


def split_heads(x_SLD: Tensor, heads: int) -> Tensor:
    """(S, L, D) -> (S, H, L, K)."""
    return x_SLD.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_SHLK: Tensor) -> Tensor:
    """(S, H, L, K) -> (S, L, D)."""
    return x_SHLK.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each text; queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x_TD: Tensor, texts: Packing, causal: bool = False, kept_K: Tensor | None = None
    ) -> Tensor:
        """(T, D) packed -> (T, D), or (K, D) of the tokens `kept_K` (K,) alone.

        `causal` lets a token see itself and what stands before it.
        """
        dropout = self.dropout if self.training else 0.0
        mixed = []
        for mask_sl, qkv_slD in zip(texts.masks, texts.tokens_by_bin(self.qkv(x_TD)), strict=True):
            q, k, v = qkv_slD.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            mask = mask_sl[:, None, None, :]
            if causal:
                mask = mask & mask_sl.new_ones(mask_sl.shape[1], mask_sl.shape[1]).tril()
            # A padded query of an empty segment would see nothing; its row is dropped, but NaN would not be.
            mask = mask | ~mask_sl[:, None, :, None]
            mixed.append(merge_heads(attend(q, k, v, mask, dropout)))
        mixed_TD = texts.from_bins(mixed)
        return self.out(mixed_TD if kept_K is None else mixed_TD.index_select(0, kept_K))


@dataclass(frozen=True)
class ConceptTokens:
    """What texts can look at: for each concept, its patches and one summary token.

    Concepts of one image share the image's tokens; so do the keys and values made of them.

    Attributes:
        tokens_SPD: (S, P, D) token sets: patches of an image (grid encoders: S images), or class token
            and patches of one concept (ViT: S concepts).
        set_C: (C,) int64 token set of each concept.
        mask_CP: (C, P) bool, which tokens of the set belong to the concept; at least one.
        mean_summary: True where the summary token is the mean of the concept's patches (it stands in no
            set), False where it is the set's first token.
        grid_hw: (rows, columns) of the patches.
    """

    tokens_SPD: Tensor
    set_C: Tensor
    mask_CP: Tensor
    mean_summary: bool
    grid_hw: tuple[int, int]

    def looked_at(self, concept_R: Tensor) -> ConceptTokens:
        """One concept a row (R,), and of the token sets only those that some row looks at."""
        used_S, set_R = self.set_C[concept_R].unique(return_inverse=True)
        return replace(
            self,
            tokens_SPD=self.tokens_SPD.index_select(0, used_S),
            set_C=set_R,
            mask_CP=self.mask_CP[concept_R],
        )

    def copied(self, concept_R: Tensor) -> ConceptTokens:
        """One concept a row (R,), each with a token set of its own, in this order: a set may be copied."""
        return replace(
            self,
            tokens_SPD=self.tokens_SPD.index_select(0, self.set_C[concept_R]),
            set_C=torch.arange(len(concept_R), device=concept_R.device),
            mask_CP=self.mask_CP[concept_R],
        )


@dataclass(frozen=True)
class Looking:
    """How packed texts look at concepts: the same tokens, segmented by the token set that they look at.

    Attributes:
        sets: packing whose segments are the S token sets.
        masks: for each bin of `sets` (s, l, P) bool, the tokens of its set that a query may see.
    """

    sets: Packing
    masks: tuple[Tensor, ...]
    mean_summary: bool

    @classmethod
    def of(cls, concepts: ConceptTokens, concept_T: Tensor) -> Looking:
        """Token t looks at concept `concept_T[t]` (T,); they stand sorted by token set."""
        lengths_S = torch.bincount(concepts.set_C[concept_T], minlength=concepts.tokens_SPD.shape[0])
        sets = Packing.of(lengths_S, concept_T.shape[0], longest=int(lengths_S.max()))
        mask_TP = concepts.mask_CP[concept_T]
        # Places without a query see everything; what they compute is dropped, but must not be NaN.
        padded = zip(sets.masks, sets.tokens_by_bin(mask_TP), strict=True)
        masks = tuple(mask_slP | ~mask_sl[..., None] for mask_sl, mask_slP in padded)
        return cls(sets, masks, concepts.mean_summary)


class CrossAttention(nn.Module):
    """From packed text tokens to the tokens of each row's concept.

    Keys and values are projected once per token set and serve every text and every pass that looks at it.
    A summary token that is the mean of the concept's patches needs no projection of its own: K and V are
    affine, so K(mean) = mean(K).  Its score is then the mean of the patches' scores, and its share of
    attention is spread evenly over their values.
    """

    def __init__(self, width: int, looked_width: int | None, heads: int, dropout: float) -> None:
        """`looked_width`: of what is looked at; `None`: keys and values are those of another layer."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.watched: list[tuple[Packing, list[Tensor]]] | None = None  # see model/attention_map.py
        self.q = nn.Linear(width, width)
        if looked_width is not None:
            self.kv = nn.Linear(looked_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, tokens_SPD: Tensor) -> Tensor:
        """(S, P, looked_width) -> (2, S, H, P, K)."""
        return self.kv(tokens_SPD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x_TD: Tensor, keys_values: Tensor, looking: Looking) -> Tensor:
        """(T, D) packed, (2, S, H, P, K) -> (T, D)."""
        attention = attend_with_mean if looking.mean_summary else attend
        dropout = self.dropout if self.training else 0.0
        q_by_bin = looking.sets.tokens_by_bin(self.q(x_TD))
        kv_by_bin = looking.sets.segments_by_bin(keys_values, dim=1)
        mixed: list[Tensor] = []
        weights: list[Tensor] = []
        for q_slD, kv, mask_slP in zip(q_by_bin, kv_by_bin, looking.masks, strict=True):
            q_sHlK, mask_s1lP = split_heads(q_slD, self.heads), mask_slP[:, None]
            if self.watched is None:
                mixed.append(merge_heads(attention(q_sHlK, kv[0], kv[1], mask_s1lP, dropout)))
            else:
                with full_precision(q_sHlK):  # the weights become a map, by which boxes are ranked
                    q, k, v = (at_least_float(one) for one in (q_sHlK, kv[0], kv[1]))
                    out, weights_sHlP = attend_visibly(q, k, v, mask_s1lP, looking.mean_summary)
                mixed.append(merge_heads(out))
                weights.append(weights_sHlP)
        if self.watched is not None:
            self.watched.append((looking.sets, weights))
        return self.out(looking.sets.from_bins(mixed))


def attend_with_mean(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attention to masked keys and to one more: the mean of those keys, whose value is their values' mean.

    Args and result as `attend`; `mask` is (S, 1, Lq, Lk) and holds at least one key a query.
    """
    weights, share = weights_with_mean(q, k, mask)
    return spread(drop(weights, dropout), share) @ v


def weights_with_mean(q: Tensor, k: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(S, H, Lq, 1 + Lk) attention to the mean and to the keys, and each key's share (S, 1, Lq, Lk) of the
    mean."""
    share = (mask / mask.sum(-1, keepdim=True)).to(q.dtype)
    scores = scaled_products(q, k)
    summary = (scores * share).sum(-1, keepdim=True)
    scores = torch.cat((summary, scores + shut(mask, scores.dtype)), dim=-1)
    return scores.softmax(-1).to(q.dtype), share


def spread(weights: Tensor, share: Tensor) -> Tensor:
    """What `weights_with_mean` gives -> (S, H, Lq, Lk): attention to the mean goes to its keys."""
    return torch.addcmul(weights[..., 1:], weights[..., :1], share)


def attend_visibly(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, mean_summary: bool
) -> tuple[Tensor, Tensor]:
    """As `attend` or `attend_with_mean` without dropout, and the weights (S, H, Lq, slots) that were used,
    summary first."""
    if mean_summary:
        weights, share = weights_with_mean(q, k, mask)
        return spread(weights, share) @ v, weights
    weights = weights_of(q, k, mask)
    return weights @ v, weights
