"""The frozen first stages of an EfficientNet, apart from the rest, so that their output can be kept.

On a small machine the early stages of a pre-trained CNN cost most of a step and gain least from training.
Frozen, they are a function of the pixels alone: computed once for each view of an image, kept
(`data/views.py`), and skipped by the encoder from then on.
"""

from __future__ import annotations

from torch import Tensor, nn


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


def split_stem(model: nn.Module, stages: int, name: str) -> Stem:
    """Take the first `stages` stages out of a timm EfficientNet called `name`, in place.

    Raises ValueError for a model of another family, or more stages than it has.
    """
    needed = ("conv_stem", "bn1", "blocks", "conv_head")
    if not all(hasattr(model, part) for part in needed):
        raise ValueError(f"stem_stages is {stages}, but {name} is no EfficientNet; use stem_stages=0")
    blocks = model.blocks
    assert isinstance(blocks, nn.Sequential)
    if not 0 < stages < len(blocks):
        raise ValueError(
            f"stem_stages is {stages}; {name} has {len(blocks)} stages, of which one must be left"
        )
    assert isinstance(model.conv_stem, nn.Module) and isinstance(model.bn1, nn.Module)
    stem = Stem(model.conv_stem, model.bn1, blocks[:stages])
    model.conv_stem = Nothing()
    model.bn1 = Nothing()
    model.blocks = blocks[stages:]
    return stem
