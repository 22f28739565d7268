"""The frozen first stages of an EfficientNet, apart from the rest, so that their output can be kept.

On a small machine the early stages of a pre-trained CNN cost most of a step and gain least from training.
Frozen, they are a function of the pixels alone: computed once for each view of an image, kept
(`data/views.py`), and skipped by the encoder from then on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xvlm.model.vision import VisionConfig


class Stem(nn.Module):
    """Normalised pixels -> the map after the frozen stages."""

    def __init__(self, first: nn.Module, norm: nn.Module, stages: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.stages = first, norm, stages
        self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        return self.stages(self.norm(self.first(x_BCHW)))

    def train(self, mode: bool = True) -> Stem:
        """Always in evaluation mode: what is kept must not depend on the batch."""
        return super().train(False)


class Nothing(nn.Identity):
    """Stands where the stem was taken from."""


def split_stem(model: nn.Module, config: VisionConfig) -> Stem:
    """Take the first `config.stem_stages` stages out of a timm EfficientNet, in place.

    Raises ValueError for a model of another family.
    """
    needed = ("conv_stem", "bn1", "blocks", "conv_head")
    if not all(hasattr(model, name) for name in needed):
        raise ValueError(
            f"stem_stages is {config.stem_stages}, but {config.name} is no EfficientNet; use stem_stages=0"
        )
    blocks = model.blocks
    assert isinstance(blocks, nn.Sequential)
    if not 0 < config.stem_stages < len(blocks):
        raise ValueError(f"stem_stages is {config.stem_stages}; {config.name} has {len(blocks)} stages")
    assert isinstance(model.conv_stem, nn.Module) and isinstance(model.bn1, nn.Module)
    stem = Stem(model.conv_stem, model.bn1, blocks[: config.stem_stages])
    model.conv_stem = Nothing()
    model.bn1 = Nothing()
    model.blocks = blocks[config.stem_stages :]
    return stem


def stem_shape(stem: Stem, image_hw: tuple[int, int]) -> tuple[int, int, int]:
    """(channels, h, w) of what the stem makes of an image of (height, width) pixels."""
    with torch.no_grad():
        parameter = next(stem.parameters())
        out = stem(parameter.new_zeros(1, 3, *image_hw))
    return (out.shape[1], out.shape[2], out.shape[3])
