"""Swin's windowed attention as one Triton kernel each way, for NVIDIA GPUs.

timm shifts the map, divides it into windows, attends, and puts the windows together again: eight copies of
the map, and one (windows, heads, P, P) mask, for products that take a hundredth of the block's
operations.  Here a program reads the queries, keys and values of its window from where they are in the map,
computes the mask from the positions, and writes the result back into the map.  Attention weights are
computed again in the backward pass.

Shapes: B images, h x w tokens, H heads of K numbers, D = H * K, windows of P tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xvlm.models.gpu.kernels.launch import launch

MASKED = tl.constexpr(-100.0)
"""What timm adds to the score of a token of another region of the image."""

QUERIES_AT_ONCE = 64
LARGEST_WINDOW = 256
BIAS_GRADIENTS = 2048
"""Number of programs between which the windows are divided in the backward pass: each sums the gradients of
the position biases of its windows, and these sums are added afterwards, in a fixed order."""


@triton.jit
def _token_rows(position, window, height, width, rows, columns, shift_y, shift_x):
    """Return the rows of a window's tokens in the (B * h * w) map, and the region that each belongs to."""
    windows_x = width // columns
    windows = (height // rows) * windows_x
    image, place = window // windows, window % windows
    y = (place // windows_x) * rows + position // columns
    x = (place % windows_x) * columns + position % columns
    region = 0 * y
    if shift_y > 0:
        region += 3 * ((y >= height - rows).to(tl.int32) + (y >= height - shift_y).to(tl.int32))
    if shift_x > 0:
        region += (x >= width - columns).to(tl.int32) + (x >= width - shift_x).to(tl.int32)
    row = (image * height + (y + shift_y) % height) * width + (x + shift_x) % width
    return row.to(tl.int64), region


@triton.jit
def _weights(
    q, k, bias, head, query, key, query_region, key_region, scale,
    P: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Return the attention weights of a tile of queries, in float32."""
    inside = (query[:, None] < P) & (key[None, :] < P)
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    score += tl.load(bias + (head * P + query[:, None]) * P + key[None, :], inside, other=0.0).to(tl.float32)
    if SHIFTED:
        score += tl.where(query_region[:, None] == key_region[None, :], 0.0, MASKED)
    score = tl.where(key[None, :] < P, score, float("-inf"))
    score = tl.exp(score - tl.max(score, 1)[:, None])
    return score / tl.sum(score, 1)[:, None]


@triton.jit(do_not_specialize=["height", "width", "rows", "columns", "shift_y", "shift_x", "scale"])
def _forward_kernel(
    qkv, bias, out, height, width, rows, columns, shift_y, shift_x, scale,
    H: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    window, head = tl.program_id(0), tl.program_id(1)
    channel = head * K + tl.arange(0, K)
    key = tl.arange(0, KEYS)
    key_row, key_region = _token_rows(key, window, height, width, rows, columns, shift_y, shift_x)
    at_key = qkv + key_row[:, None] * (3 * H * K) + channel[None, :]
    k = tl.load(at_key + H * K, key[:, None] < P, other=0.0)
    v = tl.load(at_key + 2 * H * K, key[:, None] < P, other=0.0)
    for start in range(0, KEYS, TILE):
        query = start + tl.arange(0, TILE)
        row, region = _token_rows(query, window, height, width, rows, columns, shift_y, shift_x)
        q = tl.load(qkv + row[:, None] * (3 * H * K) + channel[None, :], query[:, None] < P, other=0.0)
        weight = _weights(q, k, bias, head, query, key, region, key_region, scale, P, SHIFTED)
        result = tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        at_out = out + row[:, None] * (H * K) + channel[None, :]
        tl.store(at_out, result.to(out.dtype.element_ty), query[:, None] < P)


@triton.jit(
    do_not_specialize=["windows", "height", "width", "rows", "columns", "shift_y", "shift_x", "scale"]
)
def _backward_kernel(
    qkv, bias, grad, dqkv, dbias, windows, height, width, rows, columns, shift_y, shift_x, scale,
    H: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    program, head = tl.program_id(0), tl.program_id(1)
    channel = head * K + tl.arange(0, K)
    key = tl.arange(0, KEYS)
    is_key = key[:, None] < P
    dbias += (program * H + head).to(tl.int64) * P * P
    dbias_tile = tl.zeros((TILE, KEYS), tl.float32)
    for window in range(program, windows, tl.num_programs(0)):
        key_row, key_region = _token_rows(key, window, height, width, rows, columns, shift_y, shift_x)
        key_offset = key_row[:, None] * (3 * H * K) + channel[None, :]
        k = tl.load(qkv + key_offset + H * K, is_key, other=0.0)
        v = tl.load(qkv + key_offset + 2 * H * K, is_key, other=0.0)
        dk = tl.zeros((KEYS, K), tl.float32)
        dv = tl.zeros((KEYS, K), tl.float32)
        for start in range(0, KEYS, TILE):
            query = start + tl.arange(0, TILE)
            row, region = _token_rows(query, window, height, width, rows, columns, shift_y, shift_x)
            is_query = query[:, None] < P
            offset = row[:, None] * (3 * H * K) + channel[None, :]
            q = tl.load(qkv + offset, is_query, other=0.0)
            do = tl.load(grad + row[:, None] * (H * K) + channel[None, :], is_query, other=0.0)
            weight = _weights(q, k, bias, head, query, key, region, key_region, scale, P, SHIFTED)
            dv += tl.dot(tl.trans(weight.to(do.dtype)), do, input_precision="ieee")
            dweight = tl.dot(do, tl.trans(v), input_precision="ieee")
            dscore = weight * (dweight - tl.sum(weight * dweight, 1)[:, None])
            dscore_low = dscore.to(k.dtype)
            dq = tl.dot(dscore_low, k, input_precision="ieee") * scale
            dk += tl.dot(tl.trans(dscore_low), q, input_precision="ieee")
            tl.store(dqkv + offset, dq.to(dqkv.dtype.element_ty), is_query)
            if KEYS == TILE:
                dbias_tile += dscore
            else:
                inside = is_query & (key[None, :] < P)
                at_bias = dbias + query[:, None] * P + key[None, :]
                tl.store(at_bias, tl.load(at_bias, inside, other=0.0) + dscore, inside)
        tl.store(dqkv + key_offset + H * K, (dk * scale).to(dqkv.dtype.element_ty), is_key)
        tl.store(dqkv + key_offset + 2 * H * K, dv.to(dqkv.dtype.element_ty), is_key)
    if KEYS == TILE:
        query = tl.arange(0, TILE)
        inside = (query[:, None] < P) & (key[None, :] < P)
        tl.store(dbias + query[:, None] * P + key[None, :], dbias_tile, inside)


def can_attend(x: Tensor, map_hw: tuple[int, int], window_hw: tuple[int, int], head_width: int) -> bool:
    """Return whether the kernels take windows of this size: they divide the map (B, h, w, ...), and fit."""
    largest = LARGEST_WINDOW if x.element_size() < 4 else QUERIES_AT_ONCE
    return (
        map_hw[0] % window_hw[0] == 0
        and map_hw[1] % window_hw[1] == 0
        and window_hw[0] * window_hw[1] <= largest
        and head_width in (16, 32, 64)
    )


class WindowAttention(Function):
    """Attention within shifted windows."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, bias: Tensor, window_hw: tuple[int, int], shift_hw: tuple[int, int]
    ) -> Tensor:
        """Attend.

        Args:
            qkv: (B, h, w, 3 * D) contiguous queries, keys and values.
            bias: (H, P, P) contiguous position biases.
            window_hw: (rows, columns) of a window; they divide h and w.
            shift_hw: how far windows are shifted down and to the right; windows wrap around.
        Returns:
            (B, h, w, D) in the precision of `qkv`.
        """
        batch, height, width, channels = qkv.shape
        heads, area = bias.shape[0], bias.shape[1]
        out = qkv.new_empty(batch, height, width, channels // 3)
        numbers = height, width, *window_hw, *shift_hw, _scale(qkv, bias)
        grid = batch * height * width // area, heads
        launch(_forward_kernel, grid, (qkv, bias, out, *numbers), _constants(qkv, bias, shift_hw))
        ctx.save_for_backward(qkv, bias)
        ctx.window_hw, ctx.shift_hw = window_hw, shift_hw
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(B, h, w, D) -> gradients of `qkv` and `bias`."""
        qkv, bias = ctx.saved_tensors
        batch, height, width, _ = qkv.shape
        heads, area = bias.shape[0], bias.shape[1]
        windows = batch * height * width // area
        programs = min(windows, max(1, BIAS_GRADIENTS // heads))
        dqkv, constants = torch.empty_like(qkv), _constants(qkv, bias, ctx.shift_hw)
        size = programs, heads, area, area
        new = torch.empty if constants["KEYS"] == constants["TILE"] else torch.zeros
        dbias = new(size, dtype=torch.float32, device=qkv.device)
        tensors = qkv, bias, grad.contiguous(), dqkv, dbias
        numbers = windows, height, width, *ctx.window_hw, *ctx.shift_hw, _scale(qkv, bias)
        launch(_backward_kernel, (programs, heads), (*tensors, *numbers), constants)
        return dqkv, dbias.sum(0).to(bias.dtype), None, None


def _scale(qkv: Tensor, bias: Tensor) -> float:
    """Return what scores are multiplied by."""
    return float((qkv.shape[3] // (3 * bias.shape[0])) ** -0.5)


def _constants(qkv: Tensor, bias: Tensor, shift_hw: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments that both kernels are compiled for."""
    heads, area = bias.shape[0], bias.shape[1]
    width = qkv.shape[3] // (3 * heads)
    keys = max(16, triton.next_power_of_2(area))
    return {
        "H": heads,
        "K": width,
        "P": area,
        "TILE": min(QUERIES_AT_ONCE if keys <= 64 else 32, keys),
        "KEYS": keys,
        "SHIFTED": any(shift_hw),
        "num_warps": 4 if keys <= 64 else 8,
        "num_stages": 1 if keys > 64 else 2,
    }
