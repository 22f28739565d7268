"""The contract of image encoders: patch tokens of an image, and tokens and a vector of each of its concepts.

`grid.py` and `vit.py` implement it for timm models; `build.py` builds the encoder that a configuration names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from xvlm.batch import Concepts, Images
from xvlm.boxes import patches_touched
from xvlm.common.ranges import Decay, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt
from xvlm.models.text.attention import ConceptTokens

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """Which image encoder, and how it is used.

    Attributes:
        name: name of a timm model, or an encoder of the user's own: a Python file or the name of an entry
            point of the group `xvlm.encoders`; see `build_vision`.
        image_hw: (height, width) of the images in pixels; a multiple of the model's stride.
        options: keyword arguments of `timm.create_model`; `timm_options.py` lists those that are allowed.
        mean: mean of the pixels in [0, 1] of each channel; CLIP's by default, as published.
        std: standard deviation of the pixels; CLIP's by default.
        local_depth: ViT only: number of last blocks that run again for each region (published: 4).
        frozen_stem_blocks: EfficientNet only: number of first blocks that stay frozen, so that their output
            can be cached (`frozen_stem.py`).
        freeze_batch_norm: whether BatchNorm keeps its pre-trained statistics while training.
        patch_dropout: grid encoders only: fraction of patches that each training step hides from concept
            vectors and texts.  It delays overfitting on small sets of images.
        finer_map: grid encoders only: whether the pointing box head also reads the map of an earlier stage,
            which has more cells: an object that covers a small part of a cell of the final map has no place
            in it.
    """

    name: str = "swin_base_patch4_window7_224"
    image_hw: tuple[PositiveInt, PositiveInt] = (224, 224)
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = CLIP_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = CLIP_STD
    local_depth: PositiveInt = 4
    frozen_stem_blocks: NonNegativeInt = 0
    freeze_batch_norm: bool = False
    patch_dropout: Decay = 0.0
    finer_map: bool = False


@dataclass(frozen=True)
class ImageFeatures:
    """Encoded images.

    Attributes:
        tokens_BPD: (B, P, D) patch tokens in row-major order; ViT encoders put the class token first.
        grid_hw: (rows, columns) of the patch grid.
        before_local_BPD: ViT only: (B, P, D) tokens before the blocks that run again for regions.
        finer_BChw: (B, C, h, w) map of an earlier stage, if the encoder has `finer_map`.
    """

    tokens_BPD: Tensor
    grid_hw: tuple[int, int]
    before_local_BPD: Tensor | None = None
    finer_BChw: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens_BPD.shape[0]

    @classmethod
    def cat(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Return the images of all parts, which one encoder encoded at one size."""
        return cls(
            torch.cat([part.tokens_BPD for part in parts]),
            parts[0].grid_hw,
            _cat_optional([part.before_local_BPD for part in parts]),
            _cat_optional([part.finer_BChw for part in parts]),
        )

    def select(self, image_B: Tensor) -> ImageFeatures:
        """Return the images with the (B,) indices."""
        return replace(
            self,
            tokens_BPD=self.tokens_BPD[image_B],
            before_local_BPD=None if self.before_local_BPD is None else self.before_local_BPD[image_B],
            finer_BChw=None if self.finer_BChw is None else self.finer_BChw[image_B],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.tokens_BPD, self.before_local_BPD, self.finer_BChw)
        return sum(one.nbytes for one in tensors if one is not None)


def _cat_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


class VisionEncoder(nn.Module):
    """Base class of image encoders: pixel normalization, frozen parts.

    Subclasses set `width`, and implement `forward`, `forward_blocks` and `concepts`.

    Attributes:
        model: the timm model or any other module.
        stem: frozen first blocks, if they are separate from `model`.
        run_blocks: what `forward` calls: `forward_blocks`, or graphs of it on a GPU.
        width: D, width of the tokens.
        finer_width: C, channels of the finer map; 0 without one.
    """

    width: int
    finer_width: int = 0
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.stem: nn.Module | None = None
        self.run_blocks: Callable[[Tensor], Tensor] = self.forward_blocks
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1) * 255, persistent=False)

    def normalize(self, images: Images) -> Tensor:
        """Normalize (B, 3, h, w) uint8 pixels, in the precision of the parameters.

        The output of a stem is only converted to that precision.
        """
        pixels = images.pixels_BCHW.to(self.mean.dtype)
        if images.stem_applied:
            return pixels
        return (pixels - self.mean) / self.std

    def forward_blocks(self, x: Tensor) -> Tensor:
        """Apply the model to normalized pixels (B, 3, h, w)."""
        raise NotImplementedError

    def tower(self) -> nn.Module:
        """Return the modules of the timm model in its own order, stem first."""
        return self.model if self.stem is None else nn.ModuleList([self.stem, self.model])

    def train(self, mode: bool = True) -> VisionEncoder:
        """Set training mode, except for BatchNorm with frozen statistics."""
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Images) -> ImageFeatures:
        """Encode B images into (B, P, D) tokens."""
        raise NotImplementedError

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Encode N concepts, followed by the B whole images.

        Returns:
            the tokens of the N + B concepts, and their vectors v_cls (N + B, D).
        """
        raise NotImplementedError

    def patch_mask(self, features: ImageFeatures, concepts: Concepts) -> Tensor:
        """Return (N + B, P) bool: the patches that each concept's box touches, then all of each image."""
        mask_NP = patches_touched(concepts.box_xyxy_N4, features.grid_hw)
        whole_BP = mask_NP.new_ones(len(features), mask_NP.shape[1])
        return torch.cat((mask_NP, whole_BP))
