"""Swin stages on kernels: windowed attention, norms, and gradients of biases."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage
from torch import Tensor

from xvlm.models.activation_checkpointing import recompute
from xvlm.models.gpu.fused import add_branch, add_norm, drop_path_scales, drops_in_mlp, has_kernels
from xvlm.models.gpu.kernels import window_attention
from xvlm.models.gpu.linear import linear, mlp
from xvlm.models.plain_blocks import is_plain_block


class KernelSwinStage(SwinTransformerStage):  # type: ignore[misc]
    """timm's Swin stage: the same blocks, whose residual sums are computed together with the next norm.

    Linear layers do not mix tokens, so queries, keys and values are projected in the map; only the kernel of
    attention knows of windows.
    """

    recompute_mode = "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h', w', D')."""
        x = self.downsample(x)
        if not all(_applies(block, x) for block in self.blocks):
            for block in self.blocks:
                x = recompute(self.recompute_mode, block, x)
            return x
        x, branch, scale_B = x.contiguous(), None, None
        for block in self.blocks:
            x, branch, scale_B = recompute(self.recompute_mode, _compute_block, block, x, branch, scale_B)
        assert branch is not None
        return add_branch(x, branch, scale_B)


def _compute_block(
    block: Any, x: Tensor, branch: Tensor | None, scale_B: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute a block after (B, h, w, D) `x`, to which the last block's branch is still to be added.

    Returns:
        what `x`, `branch` and its DropPath factors are for the next block.
    """
    x, normed = add_norm(x, branch, block.norm1, scale_B=scale_B)
    attended = _attend(block, normed)
    scale_B = drop_path_scales(block.drop_path1, x)
    x, normed = add_norm(x, attended, block.norm2, scale_B=scale_B)
    return x, mlp(normed, block.mlp.fc1, block.mlp.fc2), drop_path_scales(block.drop_path2, x)


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
