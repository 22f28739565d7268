"""When kernels are used, and the parts that vision and text have in common."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from xvlm.models.gpu.kernels.norm import AddNorm
from xvlm.models.gpu.linear import product_dtype


def has_kernels(x: Tensor) -> bool:
    """Return whether there are kernels for tensors like (...) `x`: on an NVIDIA GPU, not in float64."""
    return x.is_cuda and torch.version.hip is None and x.dtype in (torch.bfloat16, torch.float32)


def dropout_seed(probability: float) -> int:
    """Return a random seed; 0 if nothing is dropped."""
    # Of the host's generator, since a number on the device would be one more launch.
    return int(torch.randint(2**31 - 1, ())) if probability else 0


def add_norm(
    x: Tensor, branch: Tensor | None, norm: nn.LayerNorm, post: bool = False, scale_B: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Add a branch to (..., D) and normalize the sum; see `AddNorm`.

    Returns:
        the sum (..., D), or the norm of post-norm layers, in the precision of `x`; and the norm (..., D) in
        the precision of matrix products.
    """
    dtype = product_dtype(x)
    is_same = post and dtype == x.dtype
    total, low = AddNorm.apply(
        x, branch, norm.weight, norm.bias, norm.eps, post, None if is_same else dtype, scale_B, dropout,
        dropout_seed(dropout),
    )  # fmt: skip
    return total, total if is_same else low


def drop_path_scales(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return the (B,) factors of DropPath for (B, ...) `x`: 0, or what keeps the mean; `None` without it."""
    if not isinstance(module, DropPath) or not module.training or not module.drop_prob:
        return None
    keep = 1 - module.drop_prob
    scale_B = torch.empty(x.shape[0], device=x.device).bernoulli_(keep)
    return scale_B / keep if module.scale_by_keep and keep > 0 else scale_B


def drops_in_mlp(block: Any) -> bool:
    """Return whether dropout is active in the MLP of a timm block."""
    return bool(block.training and (block.mlp.drop1.p or block.mlp.drop2.p))


def add_branch(x: Tensor, branch: Tensor, scale_B: Tensor | None) -> Tensor:
    """Add (B, ..., D) `branch`, multiplied by the factors (B,) of DropPath, to (B, ..., D) `x`."""
    if scale_B is not None:
        branch = branch * scale_B.view(-1, *[1] * (x.ndim - 1)).to(branch.dtype)
    return x + branch
