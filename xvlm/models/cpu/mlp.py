"""MLPs that save only the input of GELU for the backward pass.

Matrix products run near the peak of a CPU; the overhead is in the elementwise operations between them, and
most of the saved memory is their output.  Linear and GELU are one operation here, with the same results.
Tensors that are saved are allocated before temporary ones: otherwise every block would leave a hole in memory
that nothing fits into.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xvlm.models.text.encoder import MLP


def applies(x: Tensor, *dropouts: nn.Module) -> bool:
    """Return whether (...) `x` is on a CPU, gradients are computed, and none of the dropouts is active."""
    drops = any(isinstance(one, nn.Dropout) and one.training and one.p > 0 for one in dropouts)
    return x.is_cpu and torch.is_grad_enabled() and not drops


class MemoryEfficientMlp(Mlp):  # type: ignore[misc]
    """The memory-efficient form of timm's MLP."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if not applies(x, self.drop1, self.drop2):
            return super().forward(x)
        return gelu_linear(self.fc1(x), cast(nn.Linear, self.fc2))


class MemoryEfficientTextMLP(MLP):
    """The memory-efficient form of the text stack's MLP."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return gelu_linear(self.up(x), self.down) if applies(x) else super().forward(x)


def gelu_linear(hidden: Tensor, linear: nn.Linear) -> Tensor:
    """Apply GELU and a linear layer with a bias, (..., 4 * D) -> (..., D); only `hidden` is saved."""
    out_TD = _GeluLinear.apply(*in_autocast(hidden.flatten(0, -2), linear.weight, linear.bias))
    return out_TD.unflatten(0, hidden.shape[:-1])


def gelu_linear_backward(grad_TD: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `hidden` (T, 4 * D), the input of GELU, and of `weight` (D, 4 * D)."""
    wide = F.gelu(hidden)
    dweight = grad_TD.T @ wide
    torch.mm(grad_TD, weight, out=wide)  # one large tensor serves three uses
    return torch.ops.aten.gelu_backward(wide, hidden, grad_input=wide), dweight


def in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert each (...) to the precision of autocast, if it is enabled."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(one.to(torch.get_autocast_dtype("cpu")) for one in tensors)


class _GeluLinear(Function):
    """Linear of GELU."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias_D: Tensor) -> Tensor:
        """(T, 4 * D), (D, 4 * D), (D,) -> (T, D)."""
        ctx.save_for_backward(hidden, weight)
        out_TD = hidden.new_empty(hidden.shape[0], weight.shape[0])
        return torch.addmm(bias_D, F.gelu(hidden), weight.T, out=out_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, D) -> (T, 4 * D), (D, 4 * D), (D,)."""
        hidden, weight = ctx.saved_tensors
        dhidden, dweight = gelu_linear_backward(grad_TD, hidden, weight)
        return dhidden, dweight, grad_TD.sum(0)
