"""Self-attention over packed texts, cross-attention from texts to the patches of their concepts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    if q.is_cpu and q.dtype == torch.bfloat16:
        # The CPU's fused kernel is made for float32: in bfloat16 plain products are several times faster.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        return F.dropout(weights, dropout, dropout > 0) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


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

    def forward(self, x_TD: Tensor, texts: Packing, causal: bool = False) -> Tensor:
        """(T, D) packed -> (T, D); `causal` lets a token see itself and what stands before it."""
        qkv = texts.pad(self.qkv(x_TD)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mask = texts.mask_SL[:, None, None, :]
        if causal:
            mask = mask & torch.ones_like(mask[0, 0]).expand(texts.longest, -1).tril()
        # A padded query of an empty segment would see nothing; its row is dropped, but NaN would not be.
        mask = mask | ~texts.mask_SL[:, None, :, None]
        mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(texts.unpad(merge_heads(mixed)))


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
    """

    tokens_SPD: Tensor
    set_C: Tensor
    mask_CP: Tensor
    mean_summary: bool


@dataclass(frozen=True)
class Looking:
    """How packed texts look at concepts: the same tokens, segmented by the token set that they look at.

    Attributes:
        sets: packing whose segments are the S token sets; rows must stand sorted by set.
        mask_SLP: (S, L, P) bool patches that each padded query may see.
    """

    sets: Packing
    mask_SLP: Tensor
    mean_summary: bool

    @classmethod
    def of(cls, texts: Packing, concepts: ConceptTokens, concept_R: Tensor, longest: int) -> Looking:
        """Rows of `texts` look at concepts `concept_R` (R,), sorted by token set.

        `longest` is the number of tokens that look at the most looked-at set.
        """
        total = texts.segment_T.shape[0]
        tokens_S = torch.zeros(
            concepts.tokens_SPD.shape[0], dtype=torch.int64, device=concept_R.device
        ).index_add_(0, concepts.set_C[concept_R], texts.lengths_S)
        sets = Packing.of(tokens_S, total, longest)
        mask_SLP = sets.pad(concepts.mask_CP[concept_R[texts.segment_T]])
        return cls(sets, mask_SLP, concepts.mean_summary)


class CrossAttention(nn.Module):
    """From packed text tokens to the tokens of each row's concept.

    Keys and values are projected once per token set and serve every text and every pass that looks at it.
    A summary token that is the mean of the concept's patches needs no projection of its own: K and V are
    affine, so K(mean) = mean(K).  Its score is then the mean of the patches' scores, and its share of
    attention is spread evenly over their values.
    """

    def __init__(self, width: int, vision_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(vision_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, tokens_SPD: Tensor) -> Tensor:
        """(S, P, vision width) -> (2, S, H, P, K)."""
        return self.kv(tokens_SPD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x_TD: Tensor, keys_values: Tensor, looking: Looking) -> Tensor:
        """(T, D) packed, (2, S, H, P, K) -> (T, D)."""
        q = split_heads(looking.sets.pad(self.q(x_TD)), self.heads)
        k, v = keys_values
        # Places without a query see everything; what they compute is dropped.
        mask = (looking.mask_SLP | ~looking.sets.mask_SL[..., None])[:, None]
        dropout = self.dropout if self.training else 0.0
        if looking.mean_summary:
            mixed = attend_with_mean(q, k, v, mask, dropout)
        else:
            mixed = attend(q, k, v, mask, dropout)
        return self.out(looking.sets.unpad(merge_heads(mixed)))


def attend_with_mean(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attention to masked keys and to one more: the mean of those keys, whose value is their values' mean.

    Args and result as `attend`; `mask` is (S, 1, Lq, Lk) and holds at least one key a query.
    """
    share = mask / mask.sum(-1, keepdim=True)
    share = share.to(q.dtype)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    summary = (scores * share).sum(-1, keepdim=True)
    scores = torch.cat((summary, scores.masked_fill(~mask, -math.inf)), dim=-1)
    weights = F.dropout(scores.softmax(-1).to(q.dtype), dropout, dropout > 0)
    return (weights[..., 1:] + weights[..., :1] * share) @ v
