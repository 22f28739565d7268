"""Attention of packed texts as one Triton kernel each way, for NVIDIA GPUs.

A text token attends to the tokens of its own text, or to the patches of its concept.  In both cases the
queries of one segment (a text, or all tokens that attend to one image) share their keys, and no key is
longer than a few hundred tokens.  A program therefore holds all keys and values of a segment, and passes
over its queries; nothing is padded, no mask is stored, and the host need not know the lengths.  Attention
weights, masks and dropout are computed again in the backward pass, which adds in a fixed order.

Shapes: T text tokens, S segments, C concepts, P patches, H heads of K numbers, D = H * K.
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

LARGEST_KEYS = 256
"""More keys and their gradients do not fit into registers."""

QUERIES_AT_ONCE = 32


@triton.jit
def _tile(
    q, k, score_scale, concept, mask, seed, dropout, row, head, is_query, position, key, is_key,
    H: tl.constexpr, N: tl.constexpr, P: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Return a tile's scores, which keys each query may attend to, and what dropout multiplies by.

    The last are for the keys and, apart, for the mean of the keys.
    """
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * score_scale
    allowed = is_query[:, None] & is_key[None, :]
    if MASKED:
        own = tl.load(concept + row, is_query, other=0)
        allowed = allowed & (tl.load(mask + own[:, None] * P + key[None, :], allowed, other=0) != 0)
    if CAUSAL:
        allowed = allowed & (key[None, :] <= position[:, None])
    factor = tl.full(score.shape, 1.0, tl.float32)
    mean_factor = tl.full(row.shape, 1.0, tl.float32)
    if DROPOUT:
        number = ((row * H + head) * (N + 1)).to(tl.int32)
        scale = 1.0 / (1.0 - dropout)
        factor = tl.where(tl.rand(seed, number[:, None] + key[None, :]) >= dropout, scale, 0.0)
        mean_factor = tl.where(tl.rand(seed, number + N) >= dropout, scale, 0.0)
    return score, allowed, factor, mean_factor


@triton.jit(do_not_specialize=["seed", "dropout", "scale"])
def _forward_kernel(
    q, k, v, out, lse, query_start, query_length, concept, mask, seed, dropout, scale,
    H: tl.constexpr, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    SELF: tl.constexpr, MEAN: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    query_stride: tl.constexpr = 3 * H * K if SELF else H * K
    key_stride: tl.constexpr = 3 * H * K if SELF else 2 * H * K
    segment, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start = tl.load(query_start + segment)
    length = tl.load(query_length + segment)
    channel = head * K + tl.arange(0, K)
    key = tl.arange(0, N)
    if SELF:
        key_row, is_key = start + key, key < length
    else:
        key_row, is_key = segment.to(tl.int64) * P + key, key < P
    at_key = key_row[:, None] * key_stride + channel[None, :]
    k_NK = tl.load(k + at_key, is_key[:, None], other=0.0)
    v_NK = tl.load(v + at_key, is_key[:, None], other=0.0)
    for first in range(part * M, length, M * tl.num_programs(2)):
        position = first + tl.arange(0, M)
        is_query = position < length
        row = start + position
        q_MK = tl.load(q + row[:, None] * query_stride + channel[None, :], is_query[:, None], other=0.0)
        score, allowed, factor, mean_factor = _tile(
            q_MK, k_NK, scale, concept, mask, seed, dropout, row, head, is_query, position, key, is_key,
            H, N, P, not SELF, CAUSAL, DROPOUT,
        )  # fmt: skip
        largest = tl.max(tl.where(allowed, score, float("-inf")), 1)
        largest = tl.where(is_query, largest, 0.0)
        weight = tl.where(allowed, tl.exp(score - largest[:, None]), 0.0)
        total = tl.sum(weight, 1)
        weight *= factor
        if MEAN:
            count = tl.maximum(tl.sum(allowed.to(tl.float32), 1), 1.0)
            mean_score = tl.sum(tl.where(allowed, score, 0.0), 1) / count
            mean_weight = tl.exp(mean_score - largest)
            total += mean_weight
            weight += tl.where(allowed, (mean_weight * mean_factor / count)[:, None], 0.0)
        total = tl.where(is_query, total, 1.0)
        weight = weight / total[:, None]
        result = tl.dot(weight.to(v_NK.dtype), v_NK, input_precision="ieee").to(out.dtype.element_ty)
        tl.store(out + row[:, None] * (H * K) + channel[None, :], result, is_query[:, None])
        tl.store(lse + row * H + head, largest + tl.log(total), is_query)


@triton.jit(do_not_specialize=["seed", "dropout", "scale"])
def _backward_kernel(
    q, k, v, lse, grad, dq, dk, dv, query_start, query_length, concept, mask, seed, dropout, scale,
    H: tl.constexpr, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    SELF: tl.constexpr, MEAN: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    query_stride: tl.constexpr = 3 * H * K if SELF else H * K
    key_stride: tl.constexpr = 3 * H * K if SELF else 2 * H * K
    segment, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(query_start + segment)
    length = tl.load(query_length + segment)
    channel = head * K + tl.arange(0, K)
    key = tl.arange(0, N)
    if SELF:
        key_row, is_key = start + key, key < length
    else:
        key_row, is_key = segment.to(tl.int64) * P + key, key < P
    at_key = key_row[:, None] * key_stride + channel[None, :]
    k_NK = tl.load(k + at_key, is_key[:, None], other=0.0)
    v_NK = tl.load(v + at_key, is_key[:, None], other=0.0)
    dk_NK = tl.zeros((N, K), tl.float32)
    dv_NK = tl.zeros((N, K), tl.float32)
    for first in range(0, length, M):
        position = first + tl.arange(0, M)
        is_query = position < length
        row = start + position
        at_query = row[:, None] * query_stride + channel[None, :]
        q_MK = tl.load(q + at_query, is_query[:, None], other=0.0)
        grad_MK = tl.load(grad + row[:, None] * (H * K) + channel[None, :], is_query[:, None], other=0.0)
        lse_M = tl.load(lse + row * H + head, is_query, other=0.0)
        score, allowed, factor, mean_factor = _tile(
            q_MK, k_NK, scale, concept, mask, seed, dropout, row, head, is_query, position, key, is_key,
            H, N, P, not SELF, CAUSAL, DROPOUT,
        )  # fmt: skip
        weight = tl.where(allowed, tl.exp(score - lse_M[:, None]), 0.0)
        dused = tl.dot(grad_MK, tl.trans(v_NK), input_precision="ieee")  # of the weight that values get
        used = weight * factor
        if MEAN:
            count = tl.maximum(tl.sum(allowed.to(tl.float32), 1), 1.0)
            share = tl.where(allowed, (1.0 / count)[:, None], 0.0)
            mean_weight = tl.exp(tl.sum(score * share, 1) - lse_M)
            used += (mean_weight * mean_factor)[:, None] * share
        delta = tl.sum(used * dused, 1)
        dscore = weight * (factor * dused - delta[:, None])
        if MEAN:
            dmean = mean_weight * (mean_factor * tl.sum(share * dused, 1) - delta)
            dscore += dmean[:, None] * share
        dscore = tl.where(allowed, dscore, 0.0).to(k_NK.dtype)
        dq_MK = tl.dot(dscore, k_NK, input_precision="ieee") * scale
        tl.store(dq + at_query, dq_MK.to(dq.dtype.element_ty), is_query[:, None])
        dk_NK += tl.dot(tl.trans(dscore), q_MK, input_precision="ieee")
        dv_NK += tl.dot(tl.trans(used.to(grad_MK.dtype)), grad_MK, input_precision="ieee")
    tl.store(dk + at_key, (dk_NK * scale).to(dk.dtype.element_ty), is_key[:, None])
    tl.store(dv + at_key, dv_NK.to(dv.dtype.element_ty), is_key[:, None])


def can_attend(x: Tensor, keys: int, head_width: int) -> bool:
    """Return whether the kernels take tokens (T, ...) that attend to `keys` keys each."""
    return keys <= (LARGEST_KEYS if x.element_size() < 4 else 64) and head_width in (16, 32, 64)


class TextSelfAttention(Function):
    """Attention within each text."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, start_S: Tensor, length_S: Tensor, longest: int, heads: int, dropout: float,
        seed: int, causal: bool,
    ) -> Tensor:  # fmt: skip
        """Attend.

        Args:
            qkv: (T, 3 * D) contiguous queries, keys and values.
            start_S, length_S: (S,) int64 first token and length of each text.
            longest: upper bound of the lengths.
            dropout: probability of dropping a weight.
            seed: of dropout.
            causal: whether a token attends only to itself and those before it.
        Returns:
            (T, D) in the precision of `qkv`, 0 at tokens of no text.
        """
        tokens, width = qkv.shape[0], qkv.shape[1] // 3
        out, lse = qkv.new_zeros(tokens, width), qkv.new_empty(tokens, heads, dtype=torch.float32)
        ctx.numbers = seed, dropout, (width // heads) ** -0.5
        ctx.constants = _constants(width, heads, longest, dropout, causal, 0, True, False)
        if tokens and len(length_S):
            parts = min(16, triton.cdiv(triton.cdiv(longest, ctx.constants["M"]), 2))
            launch(
                _forward_kernel, (len(length_S), heads, parts), (
                *qkv.split(width, 1), out, lse, start_S, length_S, length_S, length_S, *ctx.numbers
                ), ctx.constants,
            )  # fmt: skip
        ctx.save_for_backward(qkv, lse, start_S, length_S)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(T, D) -> gradient of `qkv`."""
        qkv, lse, start_S, length_S = ctx.saved_tensors
        width, heads = qkv.shape[1] // 3, lse.shape[1]
        dqkv = torch.zeros_like(qkv)
        if qkv.shape[0] and len(length_S):
            launch(
                _backward_kernel, (len(length_S), heads), (
                *qkv.split(width, 1), lse, grad.contiguous(), *dqkv.split(width, 1), start_S, length_S,
                length_S, length_S, *ctx.numbers
                ), ctx.constants,
            )  # fmt: skip
        return dqkv, *(None,) * 7


class TextCrossAttention(Function):
    """Attention from each text token to the patches of its concept."""

    @staticmethod
    def forward(
        ctx: Any, q_TD: Tensor, kv_SPD: Tensor, start_S: Tensor, length_S: Tensor, concept_T: Tensor,
        mask_CP: Tensor, heads: int, dropout: float, seed: int, mean: bool,
    ) -> Tensor:  # fmt: skip
        """Attend.

        Args:
            q_TD: (T, D) contiguous queries, sorted by the token set that they attend to.
            kv_SPD: (S, P, 2 * D) contiguous keys and values of the token sets.
            start_S, length_S: (S,) int64 first query and number of queries of each token set.
            concept_T: (T,) int64 concept of each query.
            mask_CP: (C, P) bool contiguous, True at the patches of a concept, at least one.
            dropout: probability of dropping a weight.
            seed: of dropout.
            mean: whether queries attend to the mean of the concept's patches too.
        Returns:
            (T, D) in the precision of `q_TD`, 0 at tokens of no set.
        """
        (tokens, width), (sets, patches) = q_TD.shape, kv_SPD.shape[:2]
        out, lse = torch.zeros_like(q_TD), q_TD.new_empty(tokens, heads, dtype=torch.float32)
        ctx.numbers = seed, dropout, (width // heads) ** -0.5
        ctx.constants = _constants(width, heads, patches, dropout, False, patches, False, mean)
        if tokens and sets:
            parts = max(1, min(16, triton.cdiv(triton.cdiv(tokens, ctx.constants["M"]), sets)))
            launch(
                _forward_kernel, (sets, heads, parts), (
                q_TD, *kv_SPD.split(width, 2), out, lse, start_S, length_S, concept_T, mask_CP, *ctx.numbers
                ), ctx.constants,
            )  # fmt: skip
        ctx.save_for_backward(q_TD, kv_SPD, lse, start_S, length_S, concept_T, mask_CP)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(T, D) -> gradients of `q_TD` and `kv_SPD`."""
        q_TD, kv_SPD, lse, *indices = ctx.saved_tensors
        width, heads, sets = q_TD.shape[1], lse.shape[1], kv_SPD.shape[0]
        dq, dkv = torch.zeros_like(q_TD), torch.zeros_like(kv_SPD)
        if q_TD.shape[0] and sets:
            launch(
                _backward_kernel, (sets, heads), (
                q_TD, *kv_SPD.split(width, 2), lse, grad.contiguous(), dq, *dkv.split(width, 2), *indices,
                *ctx.numbers
                ), ctx.constants,
            )  # fmt: skip
        return dq, dkv, *(None,) * 8


def _constants(
    width: int, heads: int, keys: int, dropout: float, causal: bool, patches: int, within_text: bool,
    mean: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the arguments that both kernels are compiled for, in their order."""
    padded = max(16, triton.next_power_of_2(keys))
    return {
        "H": heads,
        "K": width // heads,
        "M": 16 if padded in (16, 256) else QUERIES_AT_ONCE,
        "N": padded,
        "P": patches,
        "SELF": within_text,
        "MEAN": mean,
        "CAUSAL": causal,
        "DROPOUT": dropout > 0,
        "num_warps": 4 if padded <= 64 else 8,
    }
