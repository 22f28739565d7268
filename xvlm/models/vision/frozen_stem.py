"""The frozen first blocks of an EfficientNet, separate from the rest so that their output can be cached.

On small hardware the early blocks of a pre-trained CNN cost most of a step and gain least from training.
Frozen, they are a function of the pixels alone: their output is computed once for each view of an image,
cached (`xvlm/training/feature_cache.py`), and passed to the encoder instead of the pixels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xvlm.common.errors import InputError


class Stem(nn.Module):
    """Frozen first convolution, norm and blocks; always in evaluation mode, so independent of the batch."""

    def __init__(self, first: nn.Module, norm: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.blocks = first, norm, blocks
        self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) normalized pixels -> (B, C, h, w)."""
        return self.blocks(self.norm(self.first(x_BCHW)))

    def train(self, mode: bool = True) -> Stem:
        """Stay in evaluation mode."""
        return super().train(False)


def split_stem(model: Any, blocks: int, name: str) -> Stem:
    """Move the first `blocks` blocks of a timm EfficientNet called `name` to a stem, in place.

    Raises InputError if the model is of another family or has no more blocks than that.
    """
    if not all(hasattr(model, layer) for layer in ("conv_stem", "bn1", "blocks", "conv_head")):
        raise InputError(
            f"frozen_stem_blocks is {blocks}, but {name} is no EfficientNet; use frozen_stem_blocks=0"
        )
    flat = [block for stage in model.blocks for block in stage]
    if not 0 < blocks < len(flat):
        raise InputError(
            f"frozen_stem_blocks is {blocks}; {name} has {len(flat)} blocks, of which one must be left"
        )
    stem = Stem(model.conv_stem, model.bn1, nn.Sequential(*flat[:blocks]))
    model.conv_stem = model.bn1 = nn.Identity()
    model.blocks = nn.Sequential(*flat[blocks:])
    return stem
