"""Layers of the text stack on kernels: attention of packed tokens, norms, and gradients of biases."""

from __future__ import annotations

from torch import Tensor

from xvlm.models.gpu.fused import add_norm, dropout_seed, has_kernels
from xvlm.models.gpu.kernels import text_attention
from xvlm.models.gpu.linear import linear, mlp
from xvlm.models.text.attention import (
    CrossAttention,
    CrossAttentionLayout,
    SelfAttention,
    split_projections,
)
from xvlm.models.text.encoder import Layer
from xvlm.models.text.packing import Packing


class KernelLayer(Layer):
    """A post-norm BERT layer over packed tokens."""

    def forward(
        self,
        x_TD: Tensor,
        packing: Packing,
        context: Tensor | None = None,
        layout: CrossAttentionLayout | None = None,
        causal: bool = False,
        selected_O: Tensor | None = None,
    ) -> Tensor:
        """Compute the states (T, D) of packed tokens; the arguments are those of `Layer.forward`."""
        if not has_kernels(x_TD):
            return super().forward(x_TD, packing, context, layout, causal, selected_O)
        keys_values = self.projected(context)
        dropout = self.dropout.probability if self.training else 0.0
        attended = _attend_self(self.attention, x_TD, packing, causal, selected_O)
        if selected_O is not None:
            x_TD = x_TD.index_select(0, selected_O)
        x_TD, low_TD = add_norm(x_TD, attended, self.attention_norm, post=True, dropout=dropout)
        if keys_values is not None and layout is not None:
            attended = _attend_context(self.cross, low_TD, keys_values, layout)
            x_TD, low_TD = add_norm(x_TD, attended, self.cross_norm, post=True, dropout=dropout)
        branch = mlp(low_TD, self.mlp.up, self.mlp.down)
        return add_norm(x_TD, branch, self.mlp_norm, post=True, dropout=dropout)[0]


def _attend_self(
    attention: SelfAttention, x_TD: Tensor, packing: Packing, causal: bool, selected_O: Tensor | None
) -> Tensor:
    """(T, D) -> (T, D), or (O, D) of the selected tokens; see `SelfAttention.forward`."""
    heads, longest = attention.heads, packing.longest
    if longest is None or not text_attention.can_attend(x_TD, longest, x_TD.shape[1] // heads):
        return attention(x_TD, packing, causal, selected_O)
    dropout = attention.dropout if attention.training else 0.0
    mixed_TD: Tensor = text_attention.TextSelfAttention.apply(
        linear(x_TD, attention.qkv), packing.start_S, packing.lengths_S, longest, heads, dropout,
        dropout_seed(dropout), causal,
    )  # fmt: skip
    return linear(mixed_TD if selected_O is None else mixed_TD.index_select(0, selected_O), attention.out)


def _attend_context(
    cross: CrossAttention, x_TD: Tensor, keys_values: Tensor, layout: CrossAttentionLayout
) -> Tensor:
    """(T, D), (2, S, H, P, K) -> (T, D); see `CrossAttention.forward`."""
    patches, head_width = keys_values.shape[3:]
    if cross.recorded is not None or not text_attention.can_attend(x_TD, patches, head_width):
        return cross(x_TD, keys_values, layout)
    dropout = cross.dropout if cross.training else 0.0
    mixed_TD: Tensor = text_attention.TextCrossAttention.apply(
        linear(x_TD, cross.q), keys_values.permute(1, 3, 0, 2, 4).flatten(2), layout.sets.start_S,
        layout.sets.lengths_S, layout.concept_T, layout.mask_CP, cross.heads, dropout, dropout_seed(dropout),
        layout.mean_summary,
    )  # fmt: skip
    return linear(mixed_TD, cross.out)


class KernelCrossAttention(CrossAttention):
    """Cross-attention whose keys and values are projected with converted weights."""

    def keys_values(self, tokens_SPD: Tensor) -> Tensor:
        """(S, P, context_dim) -> (2, S, H, P, K)."""
        if not has_kernels(tokens_SPD):
            return super().keys_values(tokens_SPD)
        return split_projections(linear(tokens_SPD, self.kv), self.heads, 2)
