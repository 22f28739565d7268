"""The text encoder: BERT or RoBERTa layers over packed tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.batch import Texts
from xvlm.common.errors import InputError
from xvlm.common.ranges import Decay, Epsilon, NonNegativeInt, PositiveInt
from xvlm.models.text.attention import CrossAttention, CrossAttentionLayout, SelfAttention
from xvlm.models.text.dropout import Dropout
from xvlm.models.text.packing import Packing


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a BERT-like text stack: text layers and cross-modal layers.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        width: D, width of a token.
        heads: number of attention heads; divides the width.
        mlp_width: inner width of the MLP.
        text_layers: number of layers over the text alone (published: 6).
        cross_layers: number of layers that also attend to the image (published: 6).
        max_positions: number of learnt absolute positions.
        first_position: position of the first token: 0 for BERT, 2 for RoBERTa (padding index + 1).
        norm_eps: epsilon of every LayerNorm: 1e-12 for BERT, 1e-5 for RoBERTa.
        dropout: dropout probability of embeddings, attention weights and residual branches.
        type_vocab_size: rows of BERT's token-type table (RoBERTa: 1).  Only the first row is used; the others
            stay so that published weights are loaded and saved unchanged.
        pooling: "first": a text's vector is its `[CLS]` state (published); "mean": it is the mean of its
            states, as in MiniLM and other sentence encoders.
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

    @property
    def positions(self) -> int:
        """Tokens that a text may have."""
        return self.max_positions - self.first_position

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        if self.width % self.heads:
            yield f"heads is {self.heads}; it must divide width, {self.width}"
        if self.positions <= 0:
            yield (
                f"first_position is {self.first_position}; it must be below max_positions, "
                f"{self.max_positions}"
            )


class MLP(nn.Module):
    """Linear, exact GELU (as in BERT), linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down(F.gelu(self.up(x)))


class Layer(nn.Module):
    """A post-norm BERT layer, optionally with cross-attention between self-attention and MLP."""

    def __init__(
        self, config: TextConfig, cross_attention: bool = False, context_dim: int | None = None
    ) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.dropout = Dropout(config.dropout)
        self.attention = SelfAttention(width, config.heads, config.dropout)
        self.attention_norm = nn.LayerNorm(width, eps)
        if cross_attention:
            self.cross = CrossAttention(width, context_dim, config.heads, config.dropout)
            self.cross_norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.mlp_width)
        self.mlp_norm = nn.LayerNorm(width, eps)

    def keys_values(self, tokens_SPD: Tensor) -> Tensor:
        """Project the keys and values (2, S, H, P, K) that this layer attends to."""
        return self.cross.keys_values(tokens_SPD)

    def forward(
        self,
        x_TD: Tensor,
        packing: Packing,
        context: Tensor | None = None,
        layout: CrossAttentionLayout | None = None,
        causal: bool = False,
        selected_O: Tensor | None = None,
    ) -> Tensor:
        """Compute the states (T, D) of packed tokens.

        Args:
            context: what cross-attention attends to: token sets (S, P, context_dim), or their `keys_values`
                (2, S, H, P, K); `None` without cross-attention.
            layout: cross-attention layout of the output tokens.
            causal: whether a token attends only to itself and the tokens before it.
            selected_O: (O,) tokens whose states are needed; the result is then (O, D).
        """
        keys_values = self.projected(context)
        attended = self.attention(x_TD, packing, causal, selected_O)
        if selected_O is not None:
            x_TD = x_TD.index_select(0, selected_O)
        if keys_values is None or layout is None:
            return self.add_residuals(x_TD, attended)
        attend_context = partial(self.cross, keys_values=keys_values, layout=layout)
        return self.add_residuals(x_TD, attended, attend_context)

    def projected(self, context: Tensor | None) -> Tensor | None:
        """Return the keys and values (2, S, H, P, K) of the `context` of `forward`."""
        # Not `self.keys_values`: called from outside it gathers and frees a sharded layer's weights.
        return self.cross.keys_values(context) if context is not None and context.ndim == 3 else context

    def add_residuals(
        self, x: Tensor, attended: Tensor, attend_context: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Compute the layer from the result of its self-attention, (..., D) -> (..., D).

        Args:
            x: (..., D) input of the layer.
            attended: (..., D) result of self-attention.
            attend_context: maps (..., D) states to the result of cross-attention; `None` without it.
        """
        x = self.attention_norm(x + self.dropout(attended))
        if attend_context is not None:
            x = self.cross_norm(x + self.dropout(attend_context(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class TextEmbedding(nn.Module):
    """The sum of token, position and token-type embeddings, normalized."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.max_positions = config.max_positions
        self.first_position = config.first_position
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(config.type_vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids_T: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Return the (T, D) embeddings of (T,) ids, and the (V, D) table of `TextFeatures`.

        Raises InputError if a text exceeds the positions.
        """
        limit, longest = self.max_positions - self.first_position, packing.longest
        if longest is not None and longest > limit:
            raise InputError(f"a text has {longest} tokens, which exceeds the model's {limit} positions")
        position_TD = self.position(packing.position_T + self.first_position)
        token_TD, token_VD = self.embed_tokens(ids_T)
        return self.dropout(self.norm(token_TD + self.token_type.weight[0] + position_TD)), token_VD

    def embed_padded(self, ids_NL: Tensor, before: int) -> Tensor:
        """Return the (N, L, D) embeddings of (N, L) ids that follow `before` others, without dropout."""
        position_L = torch.arange(ids_NL.shape[1], device=ids_NL.device) + (before + self.first_position)
        token_NLD = self.token(ids_NL) + self.token_type.weight[0]
        return cast(Tensor, self.norm(token_NLD + self.position(position_L)))

    def embed_tokens(self, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (T, D) embeddings of (T,) ids, and the (V, D) table for a head that shares it."""
        return self.token(ids_T), self.token.weight


@dataclass(frozen=True)
class TextFeatures:
    """N encoded texts.

    Attributes:
        states_TD: (T, D) packed states of all tokens.
        packing: which token belongs to which text.
        cls_ND: (N, D) w_cls, the vector of each text.
        token_VD: (V, D) token embeddings, for a head that shares them; through this field, the gradients of
            the head and of the texts are added in one table.
    """

    states_TD: Tensor
    packing: Packing
    cls_ND: Tensor
    token_VD: Tensor


class TextEncoder(nn.Module):
    """The first half of the text stack, over texts alone."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        if config.pooling not in ("first", "mean"):
            raise InputError(f"pooling is {config.pooling!r}; it may be 'first' or 'mean'")
        self.config = config
        self.embedding = TextEmbedding(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.text_layers))

    def forward(self, texts: Texts, causal: bool = False) -> TextFeatures:
        """Encode N packed texts, (T,) ids; if `causal`, no token attends to those after it."""
        packing = Packing.from_texts(texts)
        x_TD, token_VD = self.embedding(texts.ids_T, packing)
        for layer in self.layers:
            x_TD = layer(x_TD, packing, causal=causal)
        return TextFeatures(x_TD, packing, self.pooled(x_TD, packing), token_VD)

    def pooled(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Pool (T, D) states to (N, D) vectors of the texts, as the configuration says."""
        if self.config.pooling == "first":
            return x_TD.index_select(0, packing.start_S)
        x_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        total_ND = x_TD.new_zeros(packing.lengths_S.shape[0], x_TD.shape[1])
        return total_ND.index_add(0, packing.segment_T, x_TD) / packing.lengths_S[:, None]
