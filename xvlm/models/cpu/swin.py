"""Swin blocks that recompute what is cheap to compute, for training on a CPU.

Each half of a block is one operation.  It saves its input, the queries, keys and values, and the input of
GELU: 9 numbers for each token and channel instead of 13.5.  Norms, attention weights and attention outputs
are recomputed, a hundredth of the block's products.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xvlm.models.cpu.mlp import applies, in_autocast
from xvlm.models.cpu.swin_functions import NormMlp, NormWindowAttention, WindowPartition

WIDE = 512
"""Width from which on a block saves the input of GELU.  To recompute a number of it takes as many
multiplications as the block is wide; and the narrower a block, the more tokens it has."""

TOKENS_AT_ONCE = 4096
"""Tokens that a narrow block's MLP computes at once, since its hidden layer is four times as wide."""


class MemoryEfficientSwinBlock(SwinTransformerBlock):  # type: ignore[misc]
    """The memory-efficient form of timm's Swin block."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        attn, mlp = self.attn, cast(Any, self.mlp)  # timm declares layers that may be convolutions
        if self.dynamic_mask or not applies(x, attn.attn_drop, attn.proj_drop, mlp.drop1, mlp.drop2):
            return super().forward(x)
        x = x + self.drop_path1(
            NormWindowAttention.apply(
                x,
                self.norm1.weight,
                self.norm1.bias,
                *_parameters(attn.qkv, attn.proj),
                self._position_bias(),
                self.attn_mask,
                WindowPartition((x.shape[1], x.shape[2]), self.window_size, self.shift_size),
                attn.num_heads,
                attn.scale,
                self.norm1.eps,
            )
        )
        if x.shape[-1] >= WIDE:
            mixed = NormMlp.apply(
                x, self.norm2.weight, self.norm2.bias, *_parameters(mlp.fc1, mlp.fc2), self.norm2.eps
            )
        else:
            parts = [
                checkpoint(self._norm_mlp, part, use_reentrant=False, preserve_rng_state=False)
                for part in x.flatten(0, 2).split(TOKENS_AT_ONCE)
            ]
            mixed = torch.cat(parts).view_as(x)
        return x + self.drop_path2(mixed)

    def _position_bias(self) -> Tensor:
        """Return the (H, P, P) biases for the relative positions of the P patches of a window."""
        table = self.attn.relative_position_bias_table
        index_PP = cast(Tensor, self.attn.relative_position_index)
        # The backward pass of table[index] would add in the order in which threads arrive.
        flat = table.index_select(0, index_PP.flatten()).T.contiguous()
        return in_autocast(flat.unflatten(1, index_PP.shape))[0]

    def _norm_mlp(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D).  The memory-efficient form of the MLP would compute its last product again."""
        mlp = cast(Any, self.mlp)
        up, up_bias, down, down_bias_D = _parameters(mlp.fc1, mlp.fc2)
        hidden = F.linear(self.norm2(x_TD).to(up.dtype), up, up_bias)
        return F.linear(F.gelu(hidden), down, down_bias_D)


def _parameters(*linears: nn.Linear) -> tuple[Tensor, ...]:
    """Return weight and bias of each layer, in the precision of autocast."""
    return in_autocast(*(one for linear in linears for one in (linear.weight, linear.bias)))
