"""BatchNorm over the images of all ranks, on CPUs and GPUs, so that training on several ranks equals one.

torch.nn.SyncBatchNorm does the same on GPUs only.  Parameters and buffers keep their names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xvlm import distributed

SUPPORTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Make every BatchNorm of a model use the statistics of all ranks in training mode.

    All ranks must run the same layers in the same order, with at least one input each.  On one rank, and in
    evaluation mode, nothing changes.
    """
    for module in model.modules():
        if type(module) in SUPPORTED:
            module.__class__ = _synchronized_class(type(module))  # type: ignore[arg-type]


@cache
def _synchronized_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Synchronized{kind.__name__}", (_Synchronized, kind), {})


class _Synchronized(nn.modules.batchnorm._BatchNorm):
    """Mixin that precedes a BatchNorm among the bases of a class."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        y, mean_C, variance_C, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.track(mean_C, variance_C * (count / (count - 1).clamp(min=1)))
        if isinstance(self, BatchNormAct2d):  # it includes an activation
            return self.act(self.drop(y))
        return y

    @torch.no_grad()
    def track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Update the running statistics with those of a batch, (C,) each, as BatchNorm does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # With momentum `None`, BatchNorm averages over all batches.
        weight = 1 / self.num_batches_tracked.double() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean), float(weight))
        self.running_var.lerp_(variance_C.to(self.running_var), float(weight))


class _Normalize(torch.autograd.Function):
    """Normalize over all ranks; returns the output, and the mean, variance and number of the inputs.

    The gradient of an input is that of the losses of all ranks, as in `distributed.all_gather`; those of
    weight and bias are this rank's part, which DDP averages as for every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, ...), (C,), (C,) -> (B, C, ...), (C,), (C,), ()."""
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        over = [axis for axis in range(x.ndim) if axis != 1]
        own_count = exact.new_tensor([x.numel() // x.shape[1]])
        total = distributed.sum_over_ranks(torch.cat((exact.sum(over), own_count)))
        count, mean_C = total[-1], total[:-1] / total[-1]
        centred = exact - _broadcastable(mean_C, x)
        variance_C = distributed.sum_over_ranks(centred.square().sum(over)) / count
        scale_C = (variance_C + eps).rsqrt()
        ctx.save_for_backward(centred, weight_C, scale_C, count)
        ctx.over, ctx.kind = over, x.dtype
        y = centred * _broadcastable(scale_C if weight_C is None else scale_C * weight_C, x)
        if bias_C is not None:
            y = y + _broadcastable(bias_C, x)
        return y.to(x.dtype), mean_C, variance_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """(B, C, ...) -> (B, C, ...), (C,), (C,)."""
        centred, weight_C, scale_C, count = ctx.saved_tensors
        grad = grads[0].to(centred.dtype)
        dbias_C = grad.sum(ctx.over)
        dweight_C = (grad * centred).sum(ctx.over) * scale_C
        means = distributed.sum_over_ranks(torch.cat((dbias_C, dweight_C))) / count
        mean_C, along_C = means.chunk(2)
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        inner = grad - _broadcastable(mean_C, grad) - centred * _broadcastable(along_C * scale_C, grad)
        own = (None, None) if weight_C is None else (dweight_C.to(weight_C), dbias_C.to(weight_C))
        return (inner * _broadcastable(factor_C, grad)).to(ctx.kind), *own, None


def _broadcastable(x_C: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), with as many axes as `like` (...)."""
    return x_C.view(1, -1, *[1] * (like.ndim - 2))
