"""Dropout that costs little on a CPU.

PyTorch draws one random number for each element there, which took a tenth of a training step.  A byte is
enough to decide, and one draw gives eight.  What is kept for the backward pass is a byte an element, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def drop(x: Tensor, probability: float) -> Tensor:
    """(...) -> (...), zeros with `probability` (on a CPU, in steps of 1/256); the rest keeps the mean."""
    if not probability:
        return x
    if not x.is_cpu:
        return F.dropout(x, probability)
    dropped = round(256 * probability)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    byte = words.view(torch.uint8)[: x.numel()].view(x.shape)
    kept: Tensor = _Kept.apply(x, byte >= dropped, 256 / (256 - dropped))
    return kept


class _Kept(Function):
    """Elements where a mask is True, times a number; zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        """(...), (...) bool -> (...)."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return x * mask.to(x.dtype).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Of the elements."""
        (mask,) = ctx.saved_tensors
        return grad * mask.to(grad.dtype).mul_(ctx.scale), None, None


class Dropout(nn.Module):
    """`drop` while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return drop(x, self.probability) if self.training else x

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"probability={self.probability}"
