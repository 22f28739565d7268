"""The vision encoder's forward and backward pass as two CUDA graphs.

The encoder launches a thousand kernels in the same order on tensors of the same shapes in every step.  A
graph launches all of them at once, so that the host is free for the text, whose shapes change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Forward = Callable[[Tensor], Tensor]
WARM_UP_STEPS = 2
"""Steps without a graph, in which kernels are compiled and libraries allocate what they need."""


class GraphedForward:
    """Calls a function of one tensor, and from the third step of a shape on, replays graphs of it.

    Graphs are used while training, where gradients are computed for the parameters alone; otherwise the
    function is called.
    """

    def __init__(self, function: Forward, module: nn.Module) -> None:
        self.function, self.module = function, module
        self.calls: dict[tuple[Any, ...], int] = {}
        self.graphs: dict[tuple[Any, ...], _Graphs] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        applies = self.module.training and torch.is_grad_enabled() and x.is_cuda and not x.requires_grad
        key = x.shape, x.dtype, torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        if not applies:
            return self.function(x)
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP_STEPS:
            return self.function(x)
        if key not in self.graphs:
            parameters = [one for one in self.module.parameters() if one.requires_grad]
            self.graphs[key] = _Graphs(self.function, parameters, x)
        graphs = self.graphs[key]
        out: Tensor = _Replay.apply(x, graphs, graphs.anchor)
        return out


class _Graphs:
    """The graphs of one shape, and the tensors that they read and write.

    Attributes:
        anchor: a number with a gradient, without which autograd would not call the backward pass.
        used: the parameters that have a gradient.
        gradients: their gradients, which every replay of the backward pass writes.
    """

    def __init__(self, function: Forward, parameters: Sequence[nn.Parameter], x: Tensor) -> None:
        self.anchor = torch.zeros((), device=x.device, requires_grad=True)
        self.x = x.clone()
        torch.cuda.synchronize()
        pool = torch.cuda.graph_pool_handle()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Autocast must not hold conversions that were made inside a graph.
        dtype = torch.get_autocast_dtype("cuda")
        enabled = torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
            # `thread_local`, since a data loader's thread pins memory meanwhile.
            with torch.cuda.graph(self.forward, pool=pool, capture_error_mode="thread_local"):
                out = function(self.x)
            self.dout = torch.empty_like(out)
            with torch.cuda.graph(self.backward, pool=pool, capture_error_mode="thread_local"):
                gradients = torch.autograd.grad(out, list(parameters), self.dout, allow_unused=True)
        self.out = out.detach()
        pairs = [(one, grad) for one, grad in zip(parameters, gradients, strict=True) if grad is not None]
        self.used = [parameter for parameter, _ in pairs]
        self.gradients = [grad.detach() for _, grad in pairs]

    def add_gradients(self, dout: Tensor) -> None:
        """Replay the backward pass and add its gradients to those of the parameters."""
        pairs = list(zip(self.used, self.gradients, strict=True))
        # The gradients of an earlier micro-batch may be the very tensors that the replay overwrites.
        earlier = [(grad, one.grad.clone()) for one, grad in pairs if one.grad is not None]
        self.dout.copy_(dout)
        self.backward.replay()
        if earlier:
            torch._foreach_add_([grad for grad, _ in earlier], [before for _, before in earlier])
        for parameter, grad in pairs:
            parameter.grad = grad


class _Replay(Function):
    """Replays the graphs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graphs: _Graphs, anchor: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        ctx.graphs = graphs
        graphs.x.copy_(x)
        graphs.forward.replay()
        return graphs.out.view_as(graphs.out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        """(B, ...) -> nothing: the gradients are put where the optimiser reads them."""
        ctx.graphs.add_gradients(grad)
        return None, None, None
