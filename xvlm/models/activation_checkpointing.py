"""Activation checkpointing: blocks save little of what they compute, and compute it again backwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from xvlm.models.text.encoder import Layer

BLOCKS = (SwinTransformerBlock, Block, Layer)
"""Modules that are recomputed.  Blocks of a CNN are not: BatchNorm would count their batches twice."""

_aten = torch.ops.aten
SAVED = [
    *(_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default),
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""Operations whose results selective checkpointing saves: they cost nearly all of the time."""


def checkpoint_activations(model: nn.Module, mode: str) -> None:
    """Let the blocks of a model's encoders and decoders recompute their activations, in place.

    Parameters, their names and all results stay the same.

    Args:
        mode: "none", "selective" or "full"; see `Run.activation_checkpointing`.
    """
    if mode == "none":
        return
    if hasattr(model, "recompute_mode"):  # it calls what its blocks are made of
        setattr(model, "recompute_mode", mode)  # noqa: B010 (declared by none of timm's classes)
    elif isinstance(model, BLOCKS):
        # The class changes, since a `forward` set on the object would stay bound to it in a copy.
        cast(Any, model).__class__ = _recomputing(type(model), mode)  # type: ignore[arg-type]
    else:
        for child in model.children():
            checkpoint_activations(child, mode)


@cache
def _recomputing(kind: type[nn.Module], mode: str) -> type[nn.Module]:
    """Return a subclass whose forward pass is recomputed."""

    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        return recompute(mode, partial(kind.forward, self), *args, **options)  # type: ignore[arg-type]

    return type(f"Recomputing{kind.__name__}", (kind,), {"forward": forward})


def recompute(mode: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function; what its backward pass needs is computed again as `mode` says, "none" included."""
    if mode == "none" or not torch.is_grad_enabled():
        return function(*args, **options)
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, SAVED)
    return checkpoint(function, *args, use_reentrant=False, **options)
