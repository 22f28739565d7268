"""The switch that makes a model train with less memory on a CPU."""

from __future__ import annotations

from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

from xvlm.models.cpu.embedding import MemoryEfficientEmbedding
from xvlm.models.cpu.mlp import MemoryEfficientMlp, MemoryEfficientTextMLP
from xvlm.models.cpu.swin import MemoryEfficientSwinBlock
from xvlm.models.plain_blocks import is_plain, is_plain_block
from xvlm.models.text.encoder import MLP, TextEmbedding


def use_memory_efficient_training(model: nn.Module) -> None:
    """Give the MLPs, Swin blocks and token embeddings of a model their memory-efficient forms, in place.

    Parameters and their names stay the same, and so do the results up to rounding.  The forms take effect on
    a CPU where gradients are computed; elsewhere the plain code of timm and of the text stack runs.
    """
    for module in model.modules():
        # The class changes, since a `forward` set on the object would stay bound to it in a copy.
        if type(module) is SwinTransformerBlock and is_plain_block(module):
            module.__class__ = MemoryEfficientSwinBlock
        elif type(module) is Mlp and is_plain(module):
            module.__class__ = MemoryEfficientMlp
        elif type(module) is MLP:
            module.__class__ = MemoryEfficientTextMLP
        elif type(module) is TextEmbedding:
            module.__class__ = MemoryEfficientEmbedding
