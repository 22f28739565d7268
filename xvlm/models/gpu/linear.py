"""Linear layers and MLPs in the precision of autocast, with weights that are converted once a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xvlm.models.gpu.kernels.mlp import column_sums, gelu_backward

_converted: dict[int, Tensor] = {}
"""The matrices that are converted at present, by the id of the parameter; see `converted_weights`."""

_copies: WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[Tensor]]] = WeakKeyDictionary()
"""The weights of each model and the memory of their conversions, always the same: CUDA graphs read it."""


@contextmanager
def converted_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Convert all matrices and biases of linear layers together, for one forward pass.

    Each conversion by itself is a launch, and a step has hundreds.  No weight may change before the backward
    pass.
    """
    weights, copies = _copies.get(model, ([], []))
    if not copies or (weights[0].device, dtype) != (copies[0].device, copies[0].dtype):
        weights = [
            parameter
            for module in model.modules()
            if isinstance(module, nn.Linear)
            for parameter in (module.weight, module.bias)
            if parameter is not None and parameter.dtype != dtype
        ]
        copies = [torch.empty_like(weight, dtype=dtype, requires_grad=False) for weight in weights]
        _copies[model] = weights, copies
    if weights:
        with torch.no_grad():
            torch._foreach_copy_(copies, weights)
    _converted.update((id(weight), copy) for weight, copy in zip(weights, copies, strict=True))
    try:
        yield
    finally:
        _converted.clear()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of matrix products with (...) `x`: autocast's, if it is enabled."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def convert(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a parameter (...) in the precision of products."""
    found = _converted.get(id(weight))
    return weight.detach().to(dtype) if found is None or found.dtype != dtype else found


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer with a bias, (..., D) -> (..., outputs)."""
    dtype = product_dtype(x)
    out: Tensor = _Linear.apply(
        x.to(dtype), layer.weight, layer.bias, convert(layer.weight, dtype), convert(layer.bias, dtype)
    )
    return out


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """Apply linear, exact GELU, linear, (..., D) -> (..., D); only the input of GELU is saved."""
    dtype = product_dtype(x)
    low = [convert(one, dtype) for layer in (up, down) for one in (layer.weight, layer.bias)]
    out: Tensor = _Mlp.apply(x.to(dtype), up.weight, up.bias, down.weight, down.bias, *low)
    return out


def _weight_gradient(grad_TD: Tensor, x_TD: Tensor) -> Tensor:
    """(T, outputs), (T, inputs) -> (outputs, inputs) in float32, in which the products are added."""
    if grad_TD.is_cuda and grad_TD.dtype != torch.float32:
        return torch.mm(grad_TD.T, x_TD, out_dtype=torch.float32)
    return (grad_TD.T @ x_TD).float()


class _Linear(Function):
    """A linear layer; gradients belong to the parameters, products use their conversions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor, low_bias: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        ctx.save_for_backward(x, low)
        return F.linear(x, low, low_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(..., outputs) -> gradients of input, weight and bias."""
        x, low = ctx.saved_tensors
        grad_TD, x_TD = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        dx = (grad_TD @ low).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, _weight_gradient(grad_TD, x_TD), column_sums(grad_TD.contiguous()), None, None


class _Mlp(Function):
    """Linear, GELU, linear."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, low_up: Tensor,
        low_up_bias: Tensor, low_down: Tensor, low_down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """(..., D) -> (..., D)."""
        hidden = F.linear(x, low_up, low_up_bias)
        ctx.save_for_backward(x, hidden, low_up, low_down)
        return F.linear(F.gelu(hidden), low_down, low_down_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(..., D) -> gradients of input, weights and biases."""
        x, hidden, low_up, low_down = ctx.saved_tensors
        grad_TD = grad.reshape(-1, grad.shape[-1]).contiguous()
        x_TD, hidden_TD = x.reshape(-1, x.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
        dhidden = grad_TD @ low_down
        wide, dup_bias = gelu_backward(dhidden, hidden_TD)
        ddown = _weight_gradient(grad_TD, wide)
        del wide
        dup = _weight_gradient(dhidden, x_TD)
        dx = (dhidden @ low_up).view(x.shape)
        return dx, dup, dup_bias, ddown, column_sums(grad_TD), *(None,) * 4
