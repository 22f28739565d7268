"""BatchNorm over the images of all processes, on CPUs and GPUs, so that several processes equal one.

torch.nn.SyncBatchNorm does the same on GPUs alone.  Parameters and buffers keep their names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xvlm import dist

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


def synchronise_batch_norms(model: nn.Module) -> None:
    """From now on every BatchNorm in training mode takes the statistics of all processes' inputs.

    All processes must run the same layers in the same order, with at least one input each.  On one process,
    and in evaluation mode, nothing changes.
    """
    for module in model.modules():
        if type(module) in KINDS:
            module.__class__ = synchronised(type(module))  # type: ignore[arg-type]


@cache
def synchronised(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a BatchNorm with statistics of all processes."""
    return type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Stands before a BatchNorm among the bases of its class."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if not self.training or dist.world() == 1:
            return super().forward(x)
        y, mean_C, variance_C, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.track(mean_C, variance_C * (count / (count - 1).clamp(min=1)))
        if isinstance(self, BatchNormAct2d):  # timm's has an activation in it
            return self.act(self.drop(y))
        return y

    @torch.no_grad()
    def track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Move the running statistics towards those of a batch, (C,) each, as BatchNorm does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # `None` asks for the mean of all batches
        share = 1 / self.num_batches_tracked.double() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean), float(share))
        self.running_var.lerp_(variance_C.to(self.running_var), float(share))


class _Normalise(torch.autograd.Function):
    """Normalised inputs, and the mean, variance and number of what was averaged over.

    The gradient of an input holds what the losses of all processes say of it, as that of `dist.gather`; those
    of weight and bias hold this process's part, which DDP averages as for every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, ...), (C,), (C,) -> (B, C, ...), (C,), (C,), ()."""
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        over = [axis for axis in range(x.ndim) if axis != 1]
        own = exact.new_tensor([x.numel() // x.shape[1]])
        total = dist.sum_over_ranks(torch.cat((exact.sum(over), own)))
        count, mean_C = total[-1], total[:-1] / total[-1]
        centred = exact - _wide(mean_C, x)
        variance_C = dist.sum_over_ranks(centred.square().sum(over)) / count
        scale_C = (variance_C + eps).rsqrt()
        ctx.save_for_backward(centred, weight_C, scale_C, count)
        ctx.over, ctx.kind = over, x.dtype
        y = centred * _wide(scale_C if weight_C is None else scale_C * weight_C, x)
        if bias_C is not None:
            y = y + _wide(bias_C, x)
        return y.to(x.dtype), mean_C, variance_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """(B, C, ...) -> (B, C, ...), (C,), (C,)."""
        centred, weight_C, scale_C, count = ctx.saved_tensors
        grad = grads[0].to(centred.dtype)
        bias_C = grad.sum(ctx.over)
        by_scale_C = (grad * centred).sum(ctx.over) * scale_C
        everyones = dist.sum_over_ranks(torch.cat((bias_C, by_scale_C))) / count
        mean_C, along_C = everyones.chunk(2)
        factor_C = scale_C if weight_C is None else scale_C * weight_C
        inner = grad - _wide(mean_C, grad) - centred * _wide(along_C * scale_C, grad)
        own = (None, None) if weight_C is None else (by_scale_C.to(weight_C), bias_C.to(weight_C))
        return (inner * _wide(factor_C, grad)).to(ctx.kind), *own, None


def _wide(x_C: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), with as many axes as `like` (...)."""
    return x_C.view(1, -1, *[1] * (like.ndim - 2))
