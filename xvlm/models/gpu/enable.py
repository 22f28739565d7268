"""The switch that makes a model fast on an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from xvlm.common.hardware import autocast
from xvlm.models.gpu.graph import GraphedForward
from xvlm.models.vision.encoder import VisionEncoder
from xvlm.models.vision.grid import GridEncoder
from xvlm.models.vision.vit import ViTEncoder
from xvlm.models.xvlm import XVLM

_HAS_TRITON = importlib.util.find_spec("triton") is not None


def use_kernels(model: nn.Module) -> None:
    """Give Swin stages, blocks of vision transformers and text layers their forms on kernels, in place.

    Parameters and their names stay the same, and so do the results up to rounding.  The forms take effect
    on an NVIDIA GPU; elsewhere, and for layers that no kernel computes, the plain code of timm and of the
    text stack runs.  Without Triton nothing changes.
    """
    if not _HAS_TRITON:
        return
    from timm.models.swin_transformer import SwinTransformerStage
    from timm.models.vision_transformer import Block

    from xvlm.models.gpu.swin import KernelSwinStage
    from xvlm.models.gpu.text import KernelCrossAttention, KernelLayer
    from xvlm.models.gpu.vit import KernelBlock
    from xvlm.models.text.attention import CrossAttention
    from xvlm.models.text.encoder import Layer

    forms = {
        SwinTransformerStage: KernelSwinStage,
        Block: KernelBlock,
        Layer: KernelLayer,
        CrossAttention: KernelCrossAttention,
    }
    for module in model.modules():
        # The class changes, since a `forward` set on the object would stay bound to it in a copy.
        if type(module) in forms:
            module.__class__ = forms[type(module)]


def use_graphs(model: XVLM) -> None:
    """Replay the vision encoder's passes as CUDA graphs while training on one GPU.

    Several processes average gradients while the backward pass still runs, which a graph does not know.
    """
    vision = model.vision
    if _HAS_TRITON and not vision.finer_width and (isinstance(vision, ViTEncoder) or _is_swin(vision)):
        vision.run_blocks = GraphedForward(vision.forward_blocks, vision)


def release_graphs(model: XVLM) -> None:
    """Undo `use_graphs`: the graphs of a trained model would hold the memory of a training step."""
    model.vision.run_blocks = model.vision.forward_blocks


def _is_swin(vision: VisionEncoder) -> bool:
    """Return whether an encoder gives a map (B, h, w, D), which CNNs do not."""
    return isinstance(vision, GridEncoder) and vision.channels_last_output


@contextmanager
def step_precision(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to a precision for a forward pass; weights are converted once, not layer by layer."""
    with autocast(device, precision):
        if not _HAS_TRITON or device.type != "cuda" or precision != "bf16":
            yield
            return
        from xvlm.models.gpu.linear import converted_weights

        with converted_weights(model, torch.bfloat16):
            yield
