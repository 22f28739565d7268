"""Whether parts of a timm model are the plain ones, which have other forms for a CPU and for a GPU."""

from __future__ import annotations

from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import nn


def is_plain(module: Mlp) -> bool:
    """Return whether a timm MLP is linear, exact GELU, linear."""
    return (
        isinstance(module.act, nn.GELU)
        and module.act.approximate == "none"
        and isinstance(module.norm, nn.Identity)
        and all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in (module.fc1, module.fc2))
    )


def is_plain_block(block: SwinTransformerBlock) -> bool:
    """Return whether a timm block consists of the parts whose forms `models/cpu` and `models/gpu` compute."""
    return (
        type(block.attn) is WindowAttention
        and block.attn.qkv.bias is not None
        and isinstance(block.norm1, nn.LayerNorm)
        and isinstance(block.norm2, nn.LayerNorm)
        and is_plain(block.mlp)
    )
