"""The two halves of a Swin block as autograd functions; see `swin.py`.

A map has W windows of P patches.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xvlm.models.cpu.mlp import gelu_linear_backward


class WindowPartition(NamedTuple):
    """How a map is divided into windows: shifted, padded with zeros on the right and below, divided.

    Both directions only move numbers, and each is the other's gradient.
    """

    map_hw: tuple[int, int]
    window_hw: tuple[int, int]
    shift_hw: tuple[int, int]

    @property
    def windows_hw(self) -> tuple[int, int]:
        (height, width), (rows, columns) = self.map_hw, self.window_hw
        return -(-height // rows), -(-width // columns)

    def windows(self, map_BhwD: Tensor) -> Tensor:
        """(B, h, w, D) -> (W, P, D), image by image."""
        (height, width), (rows, columns) = self.map_hw, self.window_hw
        if any(self.shift_hw):
            map_BhwD = map_BhwD.roll([-shift for shift in self.shift_hw], dims=(1, 2))
        if height % rows or width % columns:
            map_BhwD = F.pad(map_BhwD, (0, 0, 0, -width % columns, 0, -height % rows))
        divided = map_BhwD.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        return divided.transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def map(self, windows_WPD: Tensor) -> Tensor:
        """(W, P, D) -> (B, h, w, D)."""
        height, width = self.map_hw
        divided = windows_WPD.unflatten(1, self.window_hw).unflatten(0, (-1, *self.windows_hw))
        map_BhwD = divided.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        if any(self.shift_hw):
            map_BhwD = map_BhwD.roll(self.shift_hw, dims=(1, 2))
        return map_BhwD


class NormWindowAttention(Function):
    """LayerNorm, window attention with position biases and an optional mask, projection."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BhwD: Tensor,
        norm_D: Tensor,
        norm_bias_D: Tensor,
        qkv_weight: Tensor,
        qkv_bias: Tensor,
        proj_DD: Tensor,
        proj_bias_D: Tensor,
        bias_HPP: Tensor,
        mask: Tensor | None,
        partition: WindowPartition,
        heads: int,
        scale: float,
        eps: float,
    ) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D); `mask` is (windows of an image, P, P) and additive."""
        width, windows = x_BhwD.shape[-1], x_BhwD.shape[0] * prod(partition.windows_hw)
        qkv_3WHPK = qkv_weight.new_empty(3, windows, heads, prod(partition.window_hw), width // heads)
        normed_BhwD, mean, rstd = torch.native_layer_norm(x_BhwD, norm_D.shape, norm_D, norm_bias_D, eps)
        x_WPD = partition.windows(normed_BhwD.to(qkv_weight.dtype))
        del normed_BhwD
        qkv_3WHPK.copy_(_heads_first(F.linear(x_WPD, qkv_weight, qkv_bias), heads))
        del x_WPD
        qkv_3WHPK[0].mul_(scale)
        mask = None if mask is None else mask.to(qkv_weight.dtype)
        ctx.save_for_backward(
            x_BhwD, norm_D, norm_bias_D, mean, rstd, qkv_weight, proj_DD, qkv_3WHPK, bias_HPP, mask
        )
        ctx.partition, ctx.heads, ctx.scale = partition, heads, scale
        return partition.map(F.linear(_attend(qkv_3WHPK, bias_HPP, mask)[0], proj_DD, proj_bias_D))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BhwD: Tensor) -> tuple[Tensor | None, ...]:
        """(B, h, w, D) -> gradients of the map and the parameters."""
        x_BhwD, norm_D, norm_bias_D, mean, rstd, qkv_weight, proj_DD, qkv_3WHPK, bias_HPP, mask = (
            ctx.saved_tensors
        )
        partition, heads, scale = ctx.partition, ctx.heads, ctx.scale
        q, k, v = qkv_3WHPK
        grad_WPD = partition.windows(grad_BhwD)
        grad_TD = grad_WPD.flatten(0, 1)
        out_WPD, weight_WHPP = _attend(qkv_3WHPK, bias_HPP, mask)
        dproj_DD, dproj_bias_D = grad_TD.T @ out_WPD.flatten(0, 1), grad_TD.sum(0)
        del out_WPD
        grad = (grad_WPD @ proj_DD).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()
        dscore = grad @ v.transpose(-1, -2)  # the gradient of the weights, then, in place, of the scores
        torch.ops.aten._softmax_backward_data(dscore, weight_WHPP, -1, dscore.dtype, grad_input=dscore)
        dqkv = grad.new_empty(*grad_WPD.shape[:2], len(qkv_weight))
        dq, dk, dv = _heads_first(dqkv, heads)
        torch.mul(dscore @ k, scale, out=dq)
        dk.copy_(dscore.transpose(-1, -2) @ q)
        dv.copy_(weight_WHPP.transpose(-1, -2) @ grad)
        dbias_HPP = dscore.sum(0)
        del weight_WHPP, dscore, grad
        flat = dqkv.flatten(0, 1)
        x_WPD = partition.windows(_norm_again(x_BhwD, mean, rstd, norm_D, norm_bias_D).to(qkv_weight.dtype))
        dqkv_weight = flat.T @ x_WPD.flatten(0, 1)
        del x_WPD
        dx, dnorm_D, dnorm_bias_D = _norm_backward(
            partition.map(dqkv @ qkv_weight), x_BhwD, mean, rstd, norm_D, norm_bias_D
        )
        dparameters = dnorm_D, dnorm_bias_D, dqkv_weight, flat.sum(0), dproj_DD, dproj_bias_D, dbias_HPP
        return dx, *dparameters, None, None, None, None, None


class NormMlp(Function):
    """LayerNorm, linear, GELU, linear."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_D: Tensor,
        norm_bias_D: Tensor,
        up: Tensor,
        up_bias: Tensor,
        down: Tensor,
        down_bias_D: Tensor,
        eps: float,
    ) -> Tensor:
        """(..., D) -> (..., D); `up` is (4 * D, D) and `down` (D, 4 * D)."""
        hidden = up.new_empty(x.shape[:-1].numel(), len(up))
        normed, mean, rstd = torch.native_layer_norm(x, norm_D.shape, norm_D, norm_bias_D, eps)
        torch.addmm(up_bias, normed.flatten(0, -2).to(up.dtype), up.T, out=hidden)
        del normed
        ctx.save_for_backward(x, norm_D, norm_bias_D, mean, rstd, up, down, hidden)
        return F.linear(F.gelu(hidden), down, down_bias_D).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(..., D) -> gradients of the input and the parameters."""
        x, norm_D, norm_bias_D, mean, rstd, up, down, hidden = ctx.saved_tensors
        grad_TD = grad.flatten(0, -2)
        dhidden, ddown = gelu_linear_backward(grad_TD, hidden, down)
        normed = _norm_again(x, mean, rstd, norm_D, norm_bias_D).to(up.dtype)
        dup = dhidden.T @ normed.flatten(0, -2)
        del normed
        dx, dnorm_D, dnorm_bias_D = _norm_backward(
            (dhidden @ up).view_as(grad), x, mean, rstd, norm_D, norm_bias_D
        )
        return dx, dnorm_D, dnorm_bias_D, dup, dhidden.sum(0), ddown, grad_TD.sum(0), None


def _attend(qkv_3WHPK: Tensor, bias_HPP: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attend with scaled queries -> (W, P, D) outputs, (W, H, P, P) weights."""
    q, k, v = qkv_3WHPK
    weight_WHPP = (q @ k.transpose(-1, -2)).add_(bias_HPP)  # scores, which softmax frees
    if mask is not None:
        weight_WHPP.unflatten(0, (-1, len(mask))).add_(mask[:, None])
    # In float32, into new memory: for rows of 49 numbers that is twice as fast as in bfloat16, or in place.
    precision = torch.promote_types(q.dtype, torch.float32)
    weight_WHPP = weight_WHPP.softmax(-1, dtype=precision).to(q.dtype)
    return (weight_WHPP @ v).transpose(1, 2).flatten(2), weight_WHPP


def _heads_first(qkv: Tensor, heads: int) -> Tensor:
    """(W, P, 3 * H * K) -> a view (3, W, H, P, K)."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def _norm_again(x: Tensor, mean: Tensor, rstd: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
    """Recompute the LayerNorm of (..., D) from its mean and 1 / deviation (..., 1)."""
    return torch.addcmul(bias_D, x.sub(mean).mul_(rstd), weight_D)


def _norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight_D: Tensor, bias_D: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., D) gradient of a LayerNorm -> gradients of x, weight and bias."""
    return torch.ops.aten.native_layer_norm_backward(
        grad.to(x.dtype), x, weight_D.shape, mean, rstd, weight_D, bias_D, [True] * 3
    )
