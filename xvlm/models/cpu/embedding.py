"""Token embeddings whose gradient is added to that of a head that shares their table."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xvlm.models.cpu.mlp import applies
from xvlm.models.text.encoder import TextEmbedding


class MemoryEfficientEmbedding(TextEmbedding):
    """The memory-efficient form of the text stack's embeddings."""

    def embed_tokens(self, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) ids -> (T, D) embeddings, (V, D) table."""
        if not applies(self.token.weight):
            return super().embed_tokens(ids_T)
        return _RowsAndTable.apply(self.token.weight, ids_T)


class _RowsAndTable(Function):
    """Returns rows of a table, and the table.

    The backward pass adds both gradients in one table.  Plain indexing would make a second one for the rows,
    nearly all of it zeros.
    """

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
        """(T, D), (V, D) -> (V, D)."""
        (ids_T,) = ctx.saved_tensors
        if grad_TD is None:
            return grad_VD, None
        if grad_VD is None:
            grad_VD = grad_TD.new_zeros(ctx.shape)
        # In place, since nobody else holds the gradient that a head's matrix product returns.
        return grad_VD.index_add_(0, ids_T, grad_TD), None
