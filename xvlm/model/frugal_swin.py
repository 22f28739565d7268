"""Swin's block with less memory, for training on a CPU: what is cheap to compute is computed again.

Each half of a block is one operation.  Kept are what comes in, queries, keys and values, and what goes into
GELU: 9 numbers a token and channel instead of 13.5.  Norms, attention weights and what they mix are made
again, a hundredth of the block's products.  Parameters and their names stay timm's.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from xvlm.model.frugal import gelu_linear_backward, in_autocast, is_plain, pays

WIDE = 512
"""Channels from which on a block keeps what goes into GELU.  To make it again costs as many multiplications a
number as there are channels; and where they are few, tokens are many."""

TOKENS_AT_ONCE = 4096
"""Of a narrow block's MLP: what lies between its products is four times as wide as the block."""


def make_blocks_frugal(model: nn.Module) -> None:
    """Give every Swin block of a timm model its frugal form."""
    for module in model.modules():
        # Another class, not another `forward` on the object: that would stay bound to it in a copy.
        if type(module) is SwinTransformerBlock and (
            type(module.attn) is WindowAttention
            and module.attn.qkv.bias is not None
            and isinstance(module.norm1, nn.LayerNorm)
            and isinstance(module.norm2, nn.LayerNorm)
            and is_plain(module.mlp)
        ):
            module.__class__ = FrugalSwinBlock


class FrugalSwinBlock(SwinTransformerBlock):  # type: ignore[misc]
    """Keeps what comes into either half, queries, keys, values, and what goes into GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, height, width, D) -> the same."""
        attn, mlp = self.attn, cast(Any, self.mlp)  # timm: its layers may be convolutions
        if self.dynamic_mask or not pays(x, attn.attn_drop, attn.proj_drop, mlp.drop1, mlp.drop2):
            out: Tensor = super().forward(x)
            return out
        x = x + self.drop_path1(
            _Attention.apply(
                x,
                self.norm1.weight,
                self.norm1.bias,
                *weights(attn.qkv, attn.proj),
                self.bias_of_places(),
                self.attn_mask,
                Cut((x.shape[1], x.shape[2]), self.window_size, self.shift_size),
                attn.num_heads,
                attn.scale,
                self.norm1.eps,
            )
        )
        if x.shape[-1] >= WIDE:
            mixed = _Mlp.apply(
                x, self.norm2.weight, self.norm2.bias, *weights(mlp.fc1, mlp.fc2), self.norm2.eps
            )
        else:
            parts = [
                checkpoint(self.mixed_channels, part, use_reentrant=False, preserve_rng_state=False)
                for part in x.flatten(0, 2).split(TOKENS_AT_ONCE)
            ]
            mixed = torch.cat(parts).view_as(x)
        return x + self.drop_path2(mixed)

    def bias_of_places(self) -> Tensor:
        """(H, N, N): what is added for how two places of a window lie to each other."""
        table_RH = self.attn.relative_position_bias_table
        index_NN = cast(Tensor, self.attn.relative_position_index)
        # index_select: the backward pass of table[index] adds in whatever order threads come.
        place_XH = table_RH.index_select(0, index_NN.flatten())
        return in_autocast(place_XH.T.contiguous().unflatten(1, index_NN.shape))[0]

    def mixed_channels(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D).  Not timm's MLP itself: its frugal form would compute its last product again."""
        mlp = cast(Any, self.mlp)
        up_MD, up_bias_M, down_DM, down_bias_D = weights(mlp.fc1, mlp.fc2)
        hidden_TM = F.linear(self.norm2(x_TD).to(up_MD.dtype), up_MD, up_bias_M)
        return F.linear(F.gelu(hidden_TM), down_DM, down_bias_D)


class Cut(NamedTuple):
    """How a map is cut into windows: moved by `shift`, padded with zeros on the right and below, cut.

    Both directions only move numbers, and each is the other's gradient.
    """

    map_hw: tuple[int, int]
    window_hw: tuple[int, int]
    shift_hw: tuple[int, int]

    @property
    def windows_down_across(self) -> tuple[int, int]:
        (height, width), (rows, columns) = self.map_hw, self.window_hw
        return -(-height // rows), -(-width // columns)

    def windows(self, map_BhwD: Tensor) -> Tensor:
        """(B, height, width, D) -> (W, N, D), windows of an image one after another."""
        (height, width), (rows, columns) = self.map_hw, self.window_hw
        if any(self.shift_hw):
            map_BhwD = map_BhwD.roll([-shift for shift in self.shift_hw], dims=(1, 2))
        if height % rows or width % columns:
            map_BhwD = F.pad(map_BhwD, (0, 0, 0, -width % columns, 0, -height % rows))
        cut = map_BhwD.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        return cut.transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def map(self, windows_WND: Tensor) -> Tensor:
        """(W, N, D) -> (B, height, width, D)."""
        height, width = self.map_hw
        cut = windows_WND.unflatten(1, self.window_hw).unflatten(0, (-1, *self.windows_down_across))
        map_BhwD = cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        if any(self.shift_hw):
            map_BhwD = map_BhwD.roll(self.shift_hw, dims=(1, 2))
        return map_BhwD


class _Attention(Function):
    """Norm, windows, softmax attention with a learnt bias of places and perhaps a mask, projection, map."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BhwD: Tensor,
        norm_D: Tensor,
        norm_bias_D: Tensor,
        qkv_CD: Tensor,
        qkv_bias_C: Tensor,
        proj_DD: Tensor,
        proj_bias_D: Tensor,
        place_HNN: Tensor,
        mask_vNN: Tensor | None,
        cut: Cut,
        heads: int,
        scale: float,
        eps: float,
    ) -> Tensor:
        """(B, height, width, D) -> the same.  C is 3 * D; of N tokens in a window each sees each."""
        width, windows = x_BhwD.shape[-1], x_BhwD.shape[0] * prod(cut.windows_down_across)
        qkv_3WHNK = qkv_CD.new_empty(3, windows, heads, prod(cut.window_hw), width // heads)
        normed_BhwD, mean, rstd = norm(x_BhwD, norm_D, norm_bias_D, eps)
        x_WND = cut.windows(normed_BhwD.to(qkv_CD.dtype))
        del normed_BhwD
        qkv_3WHNK.copy_(heads_first(F.linear(x_WND, qkv_CD, qkv_bias_C), heads))
        del x_WND
        qkv_3WHNK[0].mul_(scale)
        mask_vNN = None if mask_vNN is None else mask_vNN.to(qkv_CD.dtype)
        ctx.save_for_backward(
            x_BhwD, norm_D, norm_bias_D, mean, rstd, qkv_CD, proj_DD, qkv_3WHNK, place_HNN, mask_vNN
        )
        ctx.cut, ctx.heads, ctx.scale = cut, heads, scale
        return cut.map(F.linear(mix(qkv_3WHNK, place_HNN, mask_vNN)[0], proj_DD, proj_bias_D))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BhwD: Tensor) -> tuple[Tensor | None, ...]:
        """Of the map and of every weight."""
        x_BhwD, norm_D, norm_bias_D, mean, rstd, qkv_CD, proj_DD, qkv_3WHNK, place_HNN, mask_vNN = (
            ctx.saved_tensors
        )
        cut, heads, scale = ctx.cut, ctx.heads, ctx.scale
        q, k, v = qkv_3WHNK
        grad_WND = cut.windows(grad_BhwD)
        grad_TD = grad_WND.flatten(0, 1)
        mixed_WND, share_WHNN = mix(qkv_3WHNK, place_HNN, mask_vNN)
        dproj_DD, dproj_bias_D = grad_TD.T @ mixed_WND.flatten(0, 1), grad_TD.sum(0)
        del mixed_WND
        grad = (grad_WND @ proj_DD).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()
        dscore = grad @ v.transpose(-1, -2)  # of what comes out of softmax, then of what goes in
        torch.ops.aten._softmax_backward_data(dscore, share_WHNN, -1, dscore.dtype, grad_input=dscore)
        dqkv_WNC = grad.new_empty(*grad_WND.shape[:2], len(qkv_CD))
        dq, dk, dv = heads_first(dqkv_WNC, heads)
        torch.mul(dscore @ k, scale, out=dq)
        dk.copy_(dscore.transpose(-1, -2) @ q)
        dv.copy_(share_WHNN.transpose(-1, -2) @ grad)
        dplace_HNN = dscore.sum(0)
        del share_WHNN, dscore, grad
        dqkv_TC = dqkv_WNC.flatten(0, 1)
        x_WND = cut.windows(normed_again(x_BhwD, mean, rstd, norm_D, norm_bias_D).to(qkv_CD.dtype))
        dqkv_CD = dqkv_TC.T @ x_WND.flatten(0, 1)
        del x_WND
        dx, dnorm_D, dnorm_bias_D = norm_backward(
            cut.map(dqkv_WNC @ qkv_CD), x_BhwD, mean, rstd, norm_D, norm_bias_D
        )
        dqkv_bias_C = dqkv_TC.sum(0)
        of_weights = dnorm_D, dnorm_bias_D, dqkv_CD, dqkv_bias_C, dproj_DD, dproj_bias_D, dplace_HNN
        return dx, *of_weights, None, None, None, None, None


class _Mlp(Function):
    """Norm, linear, GELU, linear."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_D: Tensor,
        norm_bias_D: Tensor,
        up_MD: Tensor,
        up_bias_M: Tensor,
        down_DM: Tensor,
        down_bias_D: Tensor,
        eps: float,
    ) -> Tensor:
        """(..., D), weights of the norm, (M, D), (M,), (D, M), (D,) -> (..., D)."""
        hidden_TM = up_MD.new_empty(x.shape[:-1].numel(), len(up_MD))
        normed, mean, rstd = norm(x, norm_D, norm_bias_D, eps)
        torch.addmm(up_bias_M, normed.flatten(0, -2).to(up_MD.dtype), up_MD.T, out=hidden_TM)
        del normed
        ctx.save_for_backward(x, norm_D, norm_bias_D, mean, rstd, up_MD, down_DM, hidden_TM)
        return F.linear(F.gelu(hidden_TM), down_DM, down_bias_D).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of every argument."""
        x, norm_D, norm_bias_D, mean, rstd, up_MD, down_DM, hidden_TM = ctx.saved_tensors
        grad_TD = grad.flatten(0, -2)
        dhidden_TM, ddown_DM = gelu_linear_backward(grad_TD, hidden_TM, down_DM)
        normed = normed_again(x, mean, rstd, norm_D, norm_bias_D).to(up_MD.dtype)
        dup_MD = dhidden_TM.T @ normed.flatten(0, -2)
        del normed
        dx, dnorm_D, dnorm_bias_D = norm_backward(
            (dhidden_TM @ up_MD).view_as(grad), x, mean, rstd, norm_D, norm_bias_D
        )
        return dx, dnorm_D, dnorm_bias_D, dup_MD, dhidden_TM.sum(0), ddown_DM, grad_TD.sum(0), None


def mix(qkv_3WHNK: Tensor, place_HNN: Tensor, mask_vNN: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries (scaled), keys, values; bias; mask -> (W, N, D) what windows read, (W, H, N, N) weights."""
    q, k, v = qkv_3WHNK
    share_WHNN = (q @ k.transpose(-1, -2)).add_(place_HNN)
    if mask_vNN is not None:
        share_WHNN.unflatten(0, (-1, len(mask_vNN))).add_(mask_vNN[:, None])
    # In float32, into new memory: for rows of 49 numbers that is twice as fast as in bfloat16, or in place.
    precision = torch.promote_types(q.dtype, torch.float32)
    share_WHNN = share_WHNN.softmax(-1, dtype=precision).to(q.dtype)
    return (share_WHNN @ v).transpose(1, 2).flatten(2), share_WHNN


def weights(*linears: nn.Linear) -> tuple[Tensor, ...]:
    """(M, D) weight and (M,) bias of each, in the precision of autocast."""
    return in_autocast(*(one for linear in linears for one in (linear.weight, linear.bias)))


def heads_first(qkv_WNC: Tensor, heads: int) -> Tensor:
    """(W, N, 3 * H * K) -> a view (3, W, H, N, K)."""
    return qkv_WNC.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def norm(x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of (..., D); mean and 1 / deviation, (..., 1), beside it, in its weights' precision."""
    found: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(x, weight_D.shape, weight_D, bias_D, eps)
    return found


def normed_again(x: Tensor, mean: Tensor, rstd: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
    """What `norm` made of (..., D), from what it found."""
    return torch.addcmul(bias_D, x.sub(mean).mul_(rstd), weight_D)


def norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight_D: Tensor, bias_D: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., D) gradients of what `norm` made -> those of x, weight and bias."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad.to(x.dtype), x, weight_D.shape, mean, rstd, weight_D, bias_D, [True] * 3
    )
    return found
