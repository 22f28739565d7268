"""The text encoder: BERT or RoBERTa layers over packed tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xvlm.batch import Texts
from xvlm.errors import InputError
from xvlm.model.attention import CrossAttention, Looking, SelfAttention
from xvlm.model.dropout import Dropout
from xvlm.model.frugal import gelu_linear, tokens_and_matrix
from xvlm.model.packing import Packing
from xvlm.ranges import Decay, Epsilon, NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a BERT-like text stack, text and cross-modal layers together.

    Attributes:
        vocab_size: tokens of the vocabulary.
        width: D.
        heads: H; divides the width.
        mlp_width: inner width of the MLP.
        text_layers: layers that read the text alone (published: 6).
        cross_layers: layers that also look at the image (published: 6).
        max_positions: learnt absolute positions; texts may not be longer.
        first_position: 0 for BERT; RoBERTa's positions start at 2 (padding index + 1).
        norm_eps: of every LayerNorm; 1e-12 for BERT, 1e-5 for RoBERTa.
        dropout: on embeddings, attention weights and residual branches.
        type_vocab_size: rows of BERT's token-type table (RoBERTa has 1).  Every token here is of the first
            type; the table is kept whole so that published weights go in and out unchanged.
        pooling: "first": a text's vector is its `[CLS]` state (published); "mean": the mean of all its
            states (MiniLM and other sentence encoders were trained so).
    """

    vocab_size: PositiveInt = 30522
    width: PositiveInt = 768
    heads: PositiveInt = 12
    mlp_width: PositiveInt = 3072
    text_layers: NonNegativeInt = 6
    cross_layers: PositiveInt = 6
    max_positions: PositiveInt = 512
    first_position: NonNegativeInt = 0
    norm_eps: Epsilon = 1e-12
    dropout: Decay = 0.1
    type_vocab_size: PositiveInt = 2
    pooling: Literal["first", "mean"] = "first"

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        if self.width % self.heads:
            yield f"heads is {self.heads}; it must divide width, {self.width}"
        if self.first_position >= self.max_positions:
            yield f"first_position is {self.first_position}; {self.max_positions} positions reach no text"


class MLP(nn.Module):
    """Linear, GELU (exact, as BERT's), linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return gelu_linear(self.up(x), self.down)


class Layer(nn.Module):
    """A post-norm BERT layer; with `looks` it has cross-attention between the two others.

    `looked_width` is of what it looks at; `None`: its keys and values are made by another layer.
    """

    def __init__(self, config: TextConfig, looks: bool = False, looked_width: int | None = None) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.dropout = Dropout(config.dropout)
        self.attention = SelfAttention(width, config.heads, config.dropout)
        self.attention_norm = nn.LayerNorm(width, eps)
        if looks:
            self.cross = CrossAttention(width, looked_width, config.heads, config.dropout)
            self.cross_norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.mlp_width)
        self.mlp_norm = nn.LayerNorm(width, eps)

    def forward(
        self,
        x_TD: Tensor,
        texts: Packing,
        keys_values: Tensor | None = None,
        looking: Looking | None = None,
        causal: bool = False,
        kept_K: Tensor | None = None,
    ) -> Tensor:
        """(T, D) packed -> (T, D), or (K, D) of the tokens `kept_K` (K,) alone, all of which are seen.

        A cross layer is given `keys_values` (2, S, H, P, K) and how the tokens that are kept look at them.
        """
        attended = self.attention(x_TD, texts, causal, kept_K)
        if kept_K is not None:
            x_TD = x_TD.index_select(0, kept_K)
        x_TD = self.attention_norm(x_TD + self.dropout(attended))
        if keys_values is not None and looking is not None:
            x_TD = self.cross_norm(x_TD + self.dropout(self.cross(x_TD, keys_values, looking)))
        return self.mlp_norm(x_TD + self.dropout(self.mlp(x_TD)))


class TextEmbedding(nn.Module):
    """Token, position and token-type embeddings, summed and normed."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.max_positions = config.max_positions
        self.first_position = config.first_position
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(config.type_vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids_T: Tensor, texts: Packing) -> tuple[Tensor, Tensor]:
        """(T,) ids -> (T, D), and the (V, D) token embeddings as `TextFeatures` has them.

        Raises InputError if a text is longer than the positions reach.
        """
        if texts.longest + self.first_position > self.max_positions:
            raise InputError(
                f"a text has {texts.longest} tokens; this model's positions reach "
                f"{self.max_positions - self.first_position}"
            )
        position_TD = self.position(texts.place_T + self.first_position)
        token_TD, token_VD = tokens_and_matrix(self.token, ids_T)
        return self.dropout(self.norm(token_TD + self.token_type.weight[0] + position_TD)), token_VD


@dataclass(frozen=True)
class TextFeatures:
    """Texts after the text encoder.

    Attributes:
        states_TD: (T, D) packed states of all tokens.
        packing: which token belongs to which of the N texts.
        summary_ND: (N, D) w_cls, one vector a text.
        token_VD: (V, D) token embeddings; a head that shares them reads them here, so that its gradient and
            that of the texts meet in one matrix.
    """

    states_TD: Tensor
    packing: Packing
    summary_ND: Tensor
    token_VD: Tensor


class TextEncoder(nn.Module):
    """The first half of the text stack: reads texts alone."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if config.pooling not in ("first", "mean"):
            raise InputError(f"pooling is {config.pooling!r}; it may be 'first' or 'mean'")
        self.config = config
        self.embedding = TextEmbedding(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.text_layers))

    def forward(self, texts: Texts, causal: bool = False) -> TextFeatures:
        """N packed texts -> their states and vectors; `causal`: no token sees what stands after it."""
        packing = Packing.of(texts.lengths_N, texts.ids_T.shape[0], texts.longest)
        x_TD, token_VD = self.embedding(texts.ids_T, packing)
        for layer in self.layers:
            x_TD = layer(x_TD, packing, causal=causal)
        return TextFeatures(x_TD, packing, self.summary(x_TD, packing), token_VD)

    def summary(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """(T, D) -> (N, D), by the configured pooling."""
        if self.config.pooling == "first":
            return x_TD.index_select(0, packing.first_S)
        x_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        total_ND = x_TD.new_zeros(packing.lengths_S.shape[0], x_TD.shape[1])
        return total_ND.index_add(0, packing.segment_T, x_TD) / packing.lengths_S[:, None]
