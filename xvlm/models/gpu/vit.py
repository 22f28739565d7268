"""Blocks of vision transformers on kernels: norms, and gradients of biases."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from xvlm.models.gpu.fused import add_branch, add_norm, drop_path_scales, drops_in_mlp, has_kernels
from xvlm.models.gpu.linear import linear, mlp
from xvlm.models.plain_blocks import is_plain
from xvlm.models.text.attention import merge_heads, split_projections


class KernelBlock(Block):  # type: ignore[misc]
    """timm's block of a vision transformer."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        if is_causal or not _applies(self, x):
            return super().forward(x, attn_mask, is_causal) if is_causal else super().forward(x, attn_mask)
        block: Any = self  # timm declares layers that may be of other types
        attn = block.attn
        x, normed = add_norm(x.contiguous(), None, block.norm1)
        qkv = split_projections(linear(normed, attn.qkv), attn.num_heads, 3)
        mask = None if attn_mask is None else attn_mask.to(qkv.dtype)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask)
        attended = linear(merge_heads(mixed), attn.proj)
        x, normed = add_norm(x, attended, block.norm2, scale_B=drop_path_scales(self.drop_path1, x))
        branch, scale_B = mlp(normed, block.mlp.fc1, block.mlp.fc2), drop_path_scales(self.drop_path2, x)
        return add_branch(x, branch, scale_B)


def _applies(block: Any, x: Tensor) -> bool:
    """Return whether the kernels compute what a block does to (B, P, D) tokens like `x`."""
    attn = block.attn
    return (
        has_kernels(x)
        and type(attn) is Attention
        and attn.qkv.bias is not None
        and all(
            isinstance(getattr(attn, one, nn.Identity()), nn.Identity) for one in ("q_norm", "k_norm", "norm")
        )
        and not (block.training and (attn.attn_drop.p or attn.proj_drop.p))
        and all(isinstance(one, nn.Identity) for one in (block.ls1, block.ls2))
        and all(isinstance(one, nn.LayerNorm) for one in (block.norm1, block.norm2))
        and type(block.mlp) is Mlp
        and is_plain(block.mlp)
        and not drops_in_mlp(block)
    )
