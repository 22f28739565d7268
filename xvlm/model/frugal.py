"""MLP and token embeddings with less memory and traffic to it, for training on a CPU.

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
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def make_mlps_frugal(model: nn.Module) -> None:
    """Give every plain MLP of a timm model its frugal form; parameters stay what they are."""
    for module in model.modules():
        # Another class, not another `forward` on the object: that would stay bound to it in a copy.
        if type(module) is Mlp and is_plain(module):
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


def gelu_linear(hidden: Tensor, linear: nn.Linear) -> Tensor:
    """`linear` (with a bias) of GELU of (..., M) -> (..., D); what comes out of GELU is made again."""
    if not pays(hidden):
        out: Tensor = linear(F.gelu(hidden))
        return out
    out = _GeluLinear.apply(*in_autocast(hidden.flatten(0, -2), linear.weight, linear.bias))
    unflat: Tensor = out.unflatten(0, hidden.shape[:-1])
    return unflat


def gelu_linear_backward(grad_TD: Tensor, hidden_TM: Tensor, weight_DM: Tensor) -> tuple[Tensor, Tensor]:
    """(T, D) gradients of what a linear of GELU gave -> (T, M) of GELU's argument, (D, M) of the matrix."""
    wide_TM = F.gelu(hidden_TM)
    dweight_DM = grad_TD.T @ wide_TM
    torch.mm(grad_TD, weight_DM, out=wide_TM)  # one large tensor, three uses
    return torch.ops.aten.gelu_backward(wide_TM, hidden_TM, grad_input=wide_TM), dweight_DM


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
        dhidden_TM, dweight_DM = gelu_linear_backward(grad_TD, hidden_TM, weight_DM)
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
