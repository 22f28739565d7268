"""MLP, windowed attention and token embeddings with less memory and traffic to it, for training on a CPU.

Products of matrices run near the machine's rate; what is lost is lost between them, and what must be kept for
the backward pass is mostly what lies between them.  Each part is written as one operation here, with the
same results.  What is kept is allocated before what is freed at once: the other way round every block leaves
a hole behind that nothing fits into.  On a GPU, and where no gradient is needed, libraries' own code runs.
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
        if type(module) is WindowAttention and module.qkv.bias is not None:
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
        return gelu_linear(self.fc1(x), cast(nn.Linear, self.fc2))


class FrugalWindowAttention(WindowAttention):  # type: ignore[misc]
    """Keeps windows, queries, keys, values and weights, each once."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(W, N, D) windows, (windows of an image, N, N) 0 or -inf, or `None` -> (W, N, D)."""
        if not pays(x, self.attn_drop):
            out: Tensor = super().forward(x, mask)
            return out
        table_RH = self.relative_position_bias_table
        # index_select: the backward pass of table[index] adds in whatever order threads come.
        place_HNN = table_RH.index_select(
            0, cast(Tensor, self.relative_position_index).flatten()
        ).T.unflatten(1, (self.window_area, self.window_area))
        mixed = _Attend.apply(
            *in_autocast(x, self.qkv.weight, self.qkv.bias, place_HNN), mask, self.num_heads, self.scale
        )
        return self.proj_drop(self.proj(mixed))


def gelu_linear(hidden: Tensor, linear: nn.Linear) -> Tensor:
    """`linear` (with a bias) of GELU of (..., M) -> (..., D); what comes out of GELU is made again."""
    if not pays(hidden):
        out: Tensor = linear(F.gelu(hidden))
        return out
    out = _GeluLinear.apply(*in_autocast(hidden.flatten(0, -2), linear.weight, linear.bias))
    unflat: Tensor = out.unflatten(0, hidden.shape[:-1])
    return unflat


def tokens_and_matrix(embedding: nn.Embedding, ids_T: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) ids -> their (T, D) embeddings, and all (V, D) of them, for a head that shares them."""
    if not pays(embedding.weight):
        return embedding(ids_T), embedding.weight
    both: tuple[Tensor, Tensor] = _Tokens.apply(embedding.weight, ids_T)
    return both


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
        out_TD = hidden_TM.new_empty(hidden_TM.shape[0], weight_DM.shape[0])
        return torch.addmm(bias_D, F.gelu(hidden_TM), weight_DM.T, out=out_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every argument."""
        hidden_TM, weight_DM = ctx.saved_tensors
        dweight_DM = grad_TD.T @ F.gelu(hidden_TM)
        dhidden_TM = torch.ops.aten.gelu_backward(grad_TD @ weight_DM, hidden_TM)
        return dhidden_TM, dweight_DM, grad_TD.sum(0)


class _Tokens(Function):
    """Rows of a matrix and the matrix, whose gradients meet in one: that of the rows alone would be another
    matrix of its size, nearly all of it zeros."""

    @staticmethod
    def forward(ctx: Any, token_VD: Tensor, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """(V, D), (T,) -> (T, D), (V, D)."""
        ctx.save_for_backward(ids_T)
        ctx.set_materialize_grads(False)
        ctx.shape = token_VD.shape
        return token_VD.index_select(0, ids_T), token_VD.view_as(token_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor | None, grad_VD: Tensor | None) -> tuple[Tensor | None, None]:
        """Of the matrix."""
        (ids_T,) = ctx.saved_tensors
        if grad_TD is None:
            return grad_VD, None
        if grad_VD is None:
            grad_VD = grad_TD.new_zeros(ctx.shape)
        # In place: what a head's product hands back is no one else's.
        return grad_VD.index_add_(0, ids_T, grad_TD), None


class _Attend(Function):
    """Softmax attention within windows, with a learnt bias of places and perhaps a mask of them."""

    @staticmethod
    def forward(
        ctx: Any,
        x_WND: Tensor,
        weight_CD: Tensor,
        bias_C: Tensor,
        place_HNN: Tensor,
        mask_vNN: Tensor | None,
        heads: int,
        scale: float,
    ) -> Tensor:
        """(W, N, D), (3 * D, D), (3 * D,), (H, N, N), (v, N, N) -> (W, N, D)."""
        windows, places, width = x_WND.shape
        qkv_3WHNK = x_WND.new_empty(3, windows, heads, places, width // heads)
        qkv_3WHNK.copy_(heads_first(F.linear(x_WND, weight_CD, bias_C), heads))
        q, k, v = qkv_3WHNK
        q.mul_(scale)
        share_WHNN = (q @ k.transpose(-1, -2)).add_(place_HNN)
        if mask_vNN is not None:
            share_WHNN.unflatten(0, (-1, len(mask_vNN))).add_(mask_vNN[:, None])
        torch.softmax(share_WHNN, -1, out=share_WHNN)
        ctx.save_for_backward(x_WND, weight_CD, qkv_3WHNK, share_WHNN)
        ctx.scale = scale
        mixed_WND = torch.empty_like(x_WND)
        mixed_WND.unflatten(-1, (heads, -1)).copy_((share_WHNN @ v).transpose(1, 2))
        return mixed_WND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WND: Tensor) -> tuple[Tensor | None, ...]:
        """Of windows, projection and bias of places."""
        x_WND, weight_CD, (q, k, v), share_WHNN = ctx.saved_tensors
        grad = grad_WND.unflatten(-1, (q.shape[1], -1)).transpose(1, 2).contiguous()
        dshare = grad @ v.transpose(-1, -2)
        dscore = torch.ops.aten._softmax_backward_data(dshare, share_WHNN, -1, dshare.dtype)
        dqkv_WNC = grad.new_empty(*x_WND.shape[:2], len(weight_CD))
        dq, dk, dv = heads_first(dqkv_WNC, q.shape[1])
        torch.mul(dscore @ k, ctx.scale, out=dq)
        dk.copy_(dscore.transpose(-1, -2) @ q)
        dv.copy_(share_WHNN.transpose(-1, -2) @ grad)
        dqkv_TC = dqkv_WNC.flatten(0, 1)
        dx_WND = (dqkv_TC @ weight_CD).view_as(x_WND)
        dweight_CD = dqkv_TC.T @ x_WND.flatten(0, 1)
        return dx_WND, dweight_CD, dqkv_TC.sum(0), dscore.sum(0), None, None, None


def heads_first(qkv_WNC: Tensor, heads: int) -> Tensor:
    """(W, N, 3 * H * K) -> a view (3, W, H, N, K)."""
    return qkv_WNC.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
