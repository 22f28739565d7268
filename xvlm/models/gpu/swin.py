"""Swin stages on kernels: windowed attention, norms, and gradients of biases."""

from __future__ import annotations

from typing import Any, cast

from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage
from torch import Tensor

from xvlm.models.gpu.fused import add_branch, add_norm, drop_path_scales, drops_in_mlp, has_kernels
from xvlm.models.gpu.kernels import window_attention
from xvlm.models.gpu.linear import linear, mlp
from xvlm.models.plain_blocks import is_plain_block


class KernelSwinStage(SwinTransformerStage):  # type: ignore[misc]
    """timm's Swin stage: the same blocks, whose residual sums are computed together with the next norm.

    Linear layers do not mix tokens, so queries, keys and values are projected in the map; only the kernel of
    attention knows of windows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h', w', D')."""
        x = self.downsample(x)
        if not all(_applies(block, x) for block in self.blocks):
            for block in self.blocks:
                x = block(x)
            return x
        x, branch, scale_B = x.contiguous(), None, None
        for block in cast(Any, self.blocks):  # timm declares layers that may be of other types
            x, normed = add_norm(x, branch, block.norm1, scale_B=scale_B)
            attended = _attend(block, normed)
            scale_B = drop_path_scales(block.drop_path1, x)
            x, normed = add_norm(x, attended, block.norm2, scale_B=scale_B)
            branch, scale_B = mlp(normed, block.mlp.fc1, block.mlp.fc2), drop_path_scales(block.drop_path2, x)
        assert branch is not None
        return add_branch(x, branch, scale_B)


def _applies(block: Any, x: Tensor) -> bool:
    """Return whether the kernels compute what a block does to (B, h, w, D) maps like `x`."""
    if type(block) is not SwinTransformerBlock or block.dynamic_mask or not is_plain_block(block):
        return False
    attn = block.attn
    head_width = attn.qkv.out_features // (3 * attn.num_heads)
    drops = block.training and (attn.attn_drop.p > 0 or attn.proj_drop.p > 0)
    return (
        has_kernels(x)
        and not drops
        and not drops_in_mlp(block)
        and window_attention.can_attend(x, (x.shape[1], x.shape[2]), block.window_size, head_width)
    )


def _attend(block: Any, x_BhwD: Tensor) -> Tensor:
    """(B, h, w, D) -> (B, h, w, D)."""
    attn = block.attn
    table, index_PP = attn.relative_position_bias_table, attn.relative_position_index
    # The backward pass of table[index] would add in the order in which threads arrive.
    bias_HPP = table.index_select(0, index_PP.flatten()).T.contiguous().unflatten(1, index_PP.shape)
    mixed = window_attention.WindowAttention.apply(
        linear(x_BhwD, attn.qkv), bias_HPP, tuple(block.window_size), tuple(block.shift_size)
    )
    return linear(mixed, attn.proj)
