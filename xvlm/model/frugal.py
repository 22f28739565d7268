"""MLP and windowed attention of timm's towers with less memory and traffic to it, for training on a CPU.

Products of matrices run near the machine's rate; what is lost is lost between them, and what must be kept for
the backward pass is mostly what lies between them.  Each part is written as one operation here, with the
same results.  On a GPU, and where no gradient is needed, timm's own code runs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def make_frugal(model: nn.Module) -> None:
    """Give the parts of a timm model below which it pays their frugal form; parameters stay what they are."""
    for module in model.modules():
        # Another class, not another `forward` on the object: that would stay bound to it in a copy.
        if type(module) is WindowAttention:
            module.__class__ = FrugalWindowAttention
        elif type(module) is Mlp and is_plain(module):
            module.__class__ = FrugalMlp


def is_plain(module: Mlp) -> bool:
    """Linear, exact GELU, linear."""
    return (
        isinstance(module.act, nn.GELU)
        and module.act.approximate == "none"
        and isinstance(module.norm, nn.Identity)
        and all(isinstance(part, nn.Linear) and part.bias is not None for part in (module.fc1, module.fc2))
    )


def pays(x: Tensor, *dropouts: nn.Module) -> bool:
    """Whether (...) `x` is on a CPU and a gradient will be asked for; nothing must be dropped in between."""
    drops = any(isinstance(one, nn.Dropout) and one.training and one.p > 0 for one in dropouts)
    return x.is_cpu and torch.is_grad_enabled() and not drops


class FrugalMlp(Mlp):  # type: ignore[misc]
    """Keeps what goes into GELU; what comes out is made again."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if not pays(x, self.drop1, self.drop2):
            out: Tensor = super().forward(x)
            return out
        hidden = self.fc1(x)
        out = _GeluLinear.apply(
            *in_autocast(hidden.flatten(0, -2), self.fc2.weight, cast(Tensor, self.fc2.bias))
        )
        unflat: Tensor = out.unflatten(0, x.shape[:-1])
        return unflat


class FrugalWindowAttention(WindowAttention):  # type: ignore[misc]
    """Keeps queries, keys, values and weights, each once."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(W, N, D) windows, (windows of an image, N, N) 0 or -inf, or `None` -> (W, N, D)."""
        if not pays(x, self.attn_drop):
            out: Tensor = super().forward(x, mask)
            return out
        table_RH = self.relative_position_bias_table
        # index_select: the backward pass of table[index] adds in whatever order threads come.
        bias_HNN = table_RH.index_select(0, cast(Tensor, self.relative_position_index).flatten()).T.unflatten(
            1, (self.window_area, self.window_area)
        )
        qkv_WN3HK = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        mixed = _Attend.apply(*in_autocast(qkv_WN3HK, bias_HNN), mask, self.scale)
        return self.proj_drop(self.proj(mixed))


def in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each (...) in the precision of autocast, where that is on."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(one.to(torch.get_autocast_dtype("cpu")) for one in tensors)


class _GeluLinear(Function):
    """Linear of GELU, of which only GELU's argument is kept."""

    @staticmethod
    def forward(ctx: Any, hidden_TM: Tensor, weight_DM: Tensor, bias_D: Tensor) -> Tensor:
        """(T, M) -> (T, D)."""
        ctx.save_for_backward(hidden_TM, weight_DM)
        return F.linear(F.gelu(hidden_TM), weight_DM, bias_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every argument."""
        hidden_TM, weight_DM = ctx.saved_tensors
        dweight_DM = grad_TD.T @ F.gelu(hidden_TM)
        dhidden_TM = torch.ops.aten.gelu_backward(grad_TD @ weight_DM, hidden_TM)
        return dhidden_TM, dweight_DM, grad_TD.sum(0)


class _Attend(Function):
    """Softmax attention within windows, with a learnt bias and perhaps a mask of their places."""

    @staticmethod
    def forward(
        ctx: Any, qkv_WN3HK: Tensor, bias_HNN: Tensor, mask_vNN: Tensor | None, scale: float
    ) -> Tensor:
        """(W, N, 3, H, K), (H, N, N), (v, N, N) -> (W, N, H * K)."""
        q, k, v = qkv_WN3HK.permute(2, 0, 3, 1, 4).contiguous()
        q.mul_(scale)
        weight_WHNN = (q @ k.transpose(-1, -2)).add_(bias_HNN)
        if mask_vNN is not None:
            weight_WHNN.unflatten(0, (-1, len(mask_vNN))).add_(mask_vNN[:, None])
        torch.softmax(weight_WHNN, -1, out=weight_WHNN)
        ctx.save_for_backward(q, k, v, weight_WHNN)
        ctx.scale = scale
        return (weight_WHNN @ v).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of queries, keys and values, and of the bias."""
        q, k, v, weight_WHNN = ctx.saved_tensors
        grad = grad_WND.unflatten(-1, (q.shape[1], -1)).transpose(1, 2).contiguous()
        dv = weight_WHNN.transpose(-1, -2) @ grad
        dweight = grad @ v.transpose(-1, -2)
        dscore = torch.ops.aten._softmax_backward_data(dweight, weight_WHNN, -1, dweight.dtype)
        dq = (dscore @ k).mul_(ctx.scale)
        dk = dscore.transpose(-1, -2) @ q
        return torch.stack((dq, dk, dv)).permute(1, 3, 0, 2, 4), dscore.sum(0), None, None
