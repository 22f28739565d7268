"""Sums of columns, and the gradient of GELU with its sum, as Triton kernels.

The gradient of a linear layer's bias is the sum of the columns of the gradient of its result.  PyTorch's
general reduction takes several times as long as reading the numbers once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xvlm.models.gpu.kernels.launch import launch

COLUMNS = 128
ROWS = 32
PROGRAMS = 1056
"""Programs of a kernel, about eight for each multiprocessor; each sums a part of the rows."""


@triton.jit(do_not_specialize=["tokens"])
def _sum_kernel(x, sums, tokens, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < D
    # A tile, which is summed once at the end: a sum over rows in every pass would wait for all threads.
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(tl.program_id(1) * ROWS, tokens, tl.num_programs(1) * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < tokens)[:, None] & is_column[None, :]
        total += tl.load(x + row[:, None] * D + column[None, :], inside, other=0.0).to(tl.float32)
    tl.store(sums + tl.program_id(1) * D + column, tl.sum(total, 0), is_column)


@triton.jit(do_not_specialize=["tokens"])
def _gelu_kernel(
    hidden, grad, wide, sums, tokens, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < D
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(tl.program_id(1) * ROWS, tokens, tl.num_programs(1) * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < tokens)[:, None] & is_column[None, :]
        at = row[:, None] * D + column[None, :]
        h = tl.load(hidden + at, inside, other=0.0).to(tl.float32)
        cumulative = 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))
        density = tl.exp(-0.5 * h * h) * 0.3989422804014327
        slope = tl.load(grad + at, inside, other=0.0).to(tl.float32) * (cumulative + h * density)
        tl.store(wide + at, (h * cumulative).to(wide.dtype.element_ty), inside)
        tl.store(grad + at, slope.to(grad.dtype.element_ty), inside)
        total += slope
    tl.store(sums + tl.program_id(1) * D + column, tl.sum(total, 0), is_column)


def _grid(tokens: int, width: int) -> tuple[int, int]:
    across = triton.cdiv(width, COLUMNS)
    return across, max(1, min(triton.cdiv(tokens, ROWS), PROGRAMS // across))


def column_sums(x_TD: Tensor) -> Tensor:
    """Return the sums (D,) of the columns of (T, D), in float32."""
    tokens, width = x_TD.shape
    grid = _grid(tokens, width)
    sums = torch.empty(grid[1], width, dtype=torch.float32, device=x_TD.device)
    launch(_sum_kernel, grid, (x_TD, sums, tokens), {"D": width, "ROWS": ROWS, "COLUMNS": COLUMNS})
    return sums.sum(0)


def gelu_backward(grad: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply `grad` (T, D) by the gradient of GELU at `hidden` (T, D), in place.

    Returns:
        GELU of `hidden` (T, D), and the sums (D,) of the columns of the product, in float32.
    """
    tokens, width = hidden.shape
    grid = _grid(tokens, width)
    sums = torch.empty(grid[1], width, dtype=torch.float32, device=grad.device)
    wide = torch.empty_like(hidden)
    constants = {"D": width, "ROWS": ROWS, "COLUMNS": COLUMNS}
    launch(_gelu_kernel, grid, (hidden, grad, wide, sums, tokens), constants)
    return wide, sums.sum(0)
