"""A residual sum and its LayerNorm as one Triton kernel each way.

PyTorch writes the sum, reads it for the norm, writes the norm in float32 and reads it once more to convert
it to bfloat16.  Here each number is read once and written once.

Shapes: T tokens of width D; `wide` is the precision of the residual sum, `low` that of matrix products.
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

NUMBERS_AT_ONCE = 4096
GRADIENT_PROGRAMS = 1024
"""Number of programs between which the tokens are divided in the backward pass: each sums the gradients of
weight and bias over its tokens, and these sums are added afterwards, in a fixed order."""


@triton.jit
def _factors(
    scale, seed, dropout, row, column, rows_per_scale, D, SCALED: tl.constexpr, DROPOUT: tl.constexpr
):  # fmt: skip
    """Return what the branch is multiplied by: a number for each image (DropPath), or dropout's."""
    factor = tl.full((row.shape[0], column.shape[0]), 1.0, tl.float32)
    if SCALED:
        factor *= tl.load(scale + row // rows_per_scale).to(tl.float32)[:, None]
    if DROPOUT:
        number = (row * D).to(tl.int32)[:, None] + column[None, :]
        factor = tl.where(tl.rand(seed, number) >= dropout, factor / (1.0 - dropout), 0.0)
    return factor


@triton.jit(do_not_specialize=["tokens", "rows_per_scale", "seed", "dropout", "eps"])
def _forward_kernel(
    x, branch, weight, bias, scale, total, low, mean, rstd, tokens, rows_per_scale, seed, dropout, eps,
    D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BRANCH: tl.constexpr, SCALED: tl.constexpr,
    DROPOUT: tl.constexpr, POST: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    is_row, is_column = row < tokens, column < D
    inside = is_row[:, None] & is_column[None, :]
    at = row[:, None] * D + column[None, :]
    value = tl.load(x + at, inside, other=0.0).to(tl.float32)
    if BRANCH:
        clamped = tl.minimum(row, tokens - 1)
        factor = _factors(scale, seed, dropout, clamped, column, rows_per_scale, D, SCALED, DROPOUT)
        value += tl.load(branch + at, inside, other=0.0).to(tl.float32) * factor
        # The norm is that of the sum as it is stored.
        value = value.to(x.dtype.element_ty).to(tl.float32)
        if not POST:
            tl.store(total + at, value.to(total.dtype.element_ty), inside)
    average = tl.sum(value, 1) / D
    centred = tl.where(inside, value - average[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    normed = centred * inverse[:, None] * tl.load(weight + column, is_column, other=0.0)[None, :]
    normed += tl.load(bias + column, is_column, other=0.0)[None, :]
    if POST:
        tl.store(total + at, normed.to(total.dtype.element_ty), inside)
    if LOW:
        tl.store(low + at, normed.to(low.dtype.element_ty), inside)
    tl.store(mean + row, average, is_row)
    tl.store(rstd + row, inverse, is_row)


@triton.jit(do_not_specialize=["tokens", "rows_per_scale", "seed", "dropout"])
def _backward_kernel(
    x, branch, weight, scale, dtotal, dlow, mean, rstd, dx, dbranch, sums, tokens, rows_per_scale, seed,
    dropout, D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, BRANCH: tl.constexpr,
    SCALED: tl.constexpr, DROPOUT: tl.constexpr, POST: tl.constexpr, DTOTAL: tl.constexpr,
    DLOW: tl.constexpr, DBRANCH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    is_column = column < D
    weight_D = tl.load(weight + column, is_column, other=0.0)[None, :]
    # Tiles, which are summed once at the end: a sum over rows in every pass would wait for all threads.
    dweight = tl.zeros((ROWS, COLUMNS), tl.float32)
    dbias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(program * ROWS, tokens, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        is_row = row < tokens
        inside = is_row[:, None] & is_column[None, :]
        at = row[:, None] * D + column[None, :]
        value = tl.load(x + at, inside, other=0.0).to(tl.float32)
        if BRANCH:
            clamped = tl.minimum(row, tokens - 1)
            factor = _factors(scale, seed, dropout, clamped, column, rows_per_scale, D, SCALED, DROPOUT)
            if POST:
                value += tl.load(branch + at, inside, other=0.0).to(tl.float32) * factor
                value = value.to(x.dtype.element_ty).to(tl.float32)
        inverse = tl.load(rstd + row, is_row, other=0.0)[:, None]
        hat = (value - tl.load(mean + row, is_row, other=0.0)[:, None]) * inverse
        hat = tl.where(inside, hat, 0.0)
        grad = tl.zeros((ROWS, COLUMNS), tl.float32)
        if DLOW:
            grad += tl.load(dlow + at, inside, other=0.0).to(tl.float32)
        if DTOTAL and POST:
            grad += tl.load(dtotal + at, inside, other=0.0).to(tl.float32)
        dweight += grad * hat
        dbias += grad
        grad *= weight_D
        grad = inverse * (grad - (tl.sum(grad, 1)[:, None] + hat * tl.sum(grad * hat, 1)[:, None]) / D)
        if DTOTAL and not POST:
            grad += tl.load(dtotal + at, inside, other=0.0).to(tl.float32)
        tl.store(dx + at, grad.to(dx.dtype.element_ty), inside)
        if DBRANCH:
            tl.store(dbranch + at, (grad * factor).to(dbranch.dtype.element_ty), inside)
    at_sums = sums + program * 2 * D + column
    tl.store(at_sums, tl.sum(dweight, 0), is_column)
    tl.store(at_sums + D, tl.sum(dbias, 0), is_column)


def _constants(width: int, **kinds: bool) -> dict[str, Any]:
    """Return the arguments that a kernel is compiled for, in its order."""
    columns = triton.next_power_of_2(width)
    rows = max(1, min(32, NUMBERS_AT_ONCE // columns))
    num_warps = 8 if rows * columns > 2048 else 4
    return {"D": width, "COLUMNS": columns, "ROWS": rows, **kinds, "num_warps": num_warps}


class AddNorm(Function):
    """`sum = x + factor * branch` and the LayerNorm of the sum, for pre-norm and post-norm layers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, post: bool,
        low_dtype: torch.dtype | None, scale_B: Tensor | None, dropout: float, seed: int,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Compute the sum, or in post-norm layers the norm, in the precision of `x`, and the norm in `low`.

        Args:
            x: (..., D) contiguous.
            branch: (..., D) what is added; `None` for nothing.
            weight, bias: (D,) float32.
            post: whether the first result is the norm (post-norm) or the sum (pre-norm).
            low_dtype: precision of the second result; `None` for none.
            scale_B: (B,) factors of the branch for equal parts of the tokens (DropPath).
            dropout: probability of dropping a number of the branch.
            seed: of dropout.
        Returns:
            (..., D) and (..., D).
        """
        width = x.shape[-1]
        tokens = x.numel() // width
        mean = torch.empty(tokens, dtype=torch.float32, device=x.device)
        rstd = torch.empty_like(mean)
        total = torch.empty_like(x) if post or branch is not None else x
        low = None if low_dtype is None else torch.empty_like(x, dtype=low_dtype)
        ctx.rows_per_scale = tokens // len(scale_B) if scale_B is not None else 1
        if tokens:
            constants = _constants(
                width, BRANCH=branch is not None, SCALED=scale_B is not None, DROPOUT=dropout > 0, POST=post,
                LOW=low is not None,
            )  # fmt: skip
            tensors = (
                x, x if branch is None else branch, weight, bias, weight if scale_B is None else scale_B,
                total, total if low is None else low, mean, rstd,
            )  # fmt: skip
            numbers = tokens, ctx.rows_per_scale, seed, dropout, eps
            grid = (triton.cdiv(tokens, constants["ROWS"]),)
            launch(_forward_kernel, grid, (*tensors, *numbers), constants)
        ctx.post, ctx.dropout, ctx.seed, ctx.has_branch = post, dropout, seed, branch is not None
        ctx.branch_dtype = None if branch is None else branch.dtype
        ctx.save_for_backward(x if post else total, branch if post else None, weight, scale_B, mean, rstd)
        ctx.set_materialize_grads(False)
        return (total if total is not x else x.view_as(x)), low

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor | None, dlow: Tensor | None) -> tuple[Tensor | None, ...]:
        """(..., D), (..., D) -> gradients of the first four arguments."""
        x, branch, weight, scale_B, mean, rstd = ctx.saved_tensors
        width = x.shape[-1]
        tokens = x.numel() // width
        drops = scale_B is not None or ctx.dropout > 0
        dx = torch.empty_like(x)
        own = ctx.has_branch and (drops or ctx.branch_dtype != x.dtype)
        dbranch = torch.empty_like(x, dtype=ctx.branch_dtype) if own else dx
        constants = _constants(
            width, BRANCH=ctx.has_branch, SCALED=scale_B is not None, DROPOUT=ctx.dropout > 0, POST=ctx.post,
            DTOTAL=dtotal is not None, DLOW=dlow is not None, DBRANCH=own,
        )  # fmt: skip
        programs = max(1, min(GRADIENT_PROGRAMS, triton.cdiv(tokens, constants["ROWS"])))
        sums = torch.empty(programs, 2, width, dtype=torch.float32, device=x.device)
        tensors = (
            x, x if branch is None else branch, weight, weight if scale_B is None else scale_B,
            x if dtotal is None else dtotal.contiguous(), x if dlow is None else dlow.contiguous(),
            mean, rstd, dx, dbranch, sums,
        )  # fmt: skip
        numbers = tokens, ctx.rows_per_scale, ctx.seed, ctx.dropout
        launch(_backward_kernel, (programs,), (*tensors, *numbers), constants)
        dweight, dbias = sums.sum(0)
        return dx, (dbranch if ctx.has_branch else None), dweight, dbias, *(None,) * 6
