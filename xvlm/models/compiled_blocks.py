"""Compilation of a model's repeated blocks with `torch.compile`.

Blocks are compiled, not the whole model: the blocks of a stage share one compiled function, so that compiling
takes seconds, and what decides the shapes of texts stays out of the graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from xvlm.models.text.encoder import MLP
from xvlm.models.xvlm import XVLM

MOST_VARIANTS = 64
"""Sizes and options of blocks of one class for which a function is compiled: Swin's blocks have nine."""


def compile_blocks(model: XVLM, backend: str = "inductor") -> list[nn.Module]:
    """Compile the blocks of the vision encoder and the MLPs of all text layers, in place, and return them.

    Parameters and their names stay the same, and so do the results up to rounding.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    blocks = [*repeated_blocks(model.vision), *(one for one in model.modules() if type(one) is MLP)]
    for block in blocks:
        # The class changes, since a `forward` set on the object would stay bound to it in a copy.
        cast(Any, block).__class__ = _compiled(type(block), backend)  # type: ignore[arg-type]
    return blocks


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks that a module repeats: the smallest items of lists with items of one class."""
    for child in module.children():
        inner = [*repeated_blocks(child)]
        is_list = isinstance(module, nn.Sequential | nn.ModuleList)
        kinds = {type(item) for item in module.children()} if is_list else set()
        if inner or len(kinds) != 1 or type(child).__module__.startswith("torch.nn."):
            yield from inner
        else:
            yield child


@cache
def _compiled(kind: type[nn.Module], backend: str) -> type[nn.Module]:
    """Return a subclass whose forward pass is compiled, without a break."""
    forward = torch.compile(kind.forward, fullgraph=True, backend=backend)
    return type(f"Compiled{kind.__name__}", (kind,), {"forward": forward})
