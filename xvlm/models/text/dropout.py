"""Dropout that is fast on a CPU.

PyTorch samples one random number for each element there, which took a tenth of a training step.  A byte is
enough to decide, and one random number has eight.  The mask for the backward pass takes a byte for each
element, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def apply_dropout(x: Tensor, probability: float) -> Tensor:
    """Zero elements of (...) with `probability` (on a CPU, in steps of 1/256), and scale the others up."""
    if not probability:
        return x
    if not x.is_cpu:
        return F.dropout(x, probability)
    threshold = round(256 * probability)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    byte = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return _MaskedScale.apply(x, byte >= threshold, 256 / (256 - threshold))


class _MaskedScale(Function):
    """Multiplies the elements where a mask is True by a number, and the others by zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        """(...), (...) bool -> (...)."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return x * mask.to(x.dtype).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """(...) -> (...)."""
        (mask,) = ctx.saved_tensors
        return grad * mask.to(grad.dtype).mul_(ctx.scale), None, None


class Dropout(nn.Module):
    """Applies `apply_dropout` while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return apply_dropout(x, self.probability) if self.training else x

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"probability={self.probability}"
