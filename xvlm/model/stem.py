"""The frozen first blocks of an EfficientNet, apart from the rest, so that their output can be kept.

On a small machine the early blocks of a pre-trained CNN cost most of a step and gain least from training.
Frozen, they are a function of the pixels alone: computed once for each view of an image, kept
(`data/views.py`), and skipped by the encoder from then on.
"""

from __future__ import annotations

from torch import Tensor, nn

from xvlm.errors import InputError


class Stem(nn.Module):
    """Normalised pixels -> the map after the frozen blocks."""

    def __init__(self, first: nn.Module, norm: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.blocks = first, norm, blocks
        self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        return self.blocks(self.norm(self.first(x_BCHW)))

    def train(self, mode: bool = True) -> Stem:
        """Always in evaluation mode: what is kept must not depend on the batch."""
        return super().train(False)


class Nothing(nn.Identity):
    """Stands where the stem was taken from."""


def split_stem(model: nn.Module, blocks: int, name: str) -> Stem:
    """Take the first `blocks` blocks out of a timm EfficientNet called `name`, in place.

    Raises InputError for a model of another family, or more blocks than it has.
    """
    needed = ("conv_stem", "bn1", "blocks", "conv_head")
    if not all(hasattr(model, part) for part in needed):
        raise InputError(f"stem_blocks is {blocks}, but {name} is no EfficientNet; use stem_blocks=0")
    stages = model.blocks
    assert isinstance(stages, nn.Sequential)
    flat = [block for stage in stages for block in stage]  # type: ignore[attr-defined]
    if not 0 < blocks < len(flat):
        raise InputError(f"stem_blocks is {blocks}; {name} has {len(flat)} blocks, of which one must be left")
    assert isinstance(model.conv_stem, nn.Module) and isinstance(model.bn1, nn.Module)
    stem = Stem(model.conv_stem, model.bn1, nn.Sequential(*flat[:blocks]))
    model.conv_stem = Nothing()
    model.bn1 = Nothing()
    model.blocks = nn.Sequential(*flat[blocks:])
    return stem
