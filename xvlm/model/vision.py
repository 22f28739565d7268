"""Vision encoders: any timm model behind one contract.

Two kinds, found from the model itself (design, section 4):

- *grid* (Swin, ConvNeXt, EfficientNet, ResNet, ...): the final feature map is the patches; a concept's
  vector is the mean of the patches its box touches.
- *ViT* (DeiT, CLIP, ...): the last `local_depth` blocks run again for each region, with attention limited
  to its patches and the class token; the class token is the concept's vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xvlm.batch import Concepts, Images
from xvlm.boxes import patches_touched
from xvlm.errors import InputError
from xvlm.model.attention import ConceptTokens
from xvlm.model.frugal import make_mlps_frugal
from xvlm.model.frugal_swin import make_blocks_frugal
from xvlm.model.options import create_checked, describe
from xvlm.model.stem import split_stem
from xvlm.ranges import Decay, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

set_fused_attn(True, experimental=True)  # Swin's fused attention counts as experimental in timm


@dataclass(frozen=True)
class VisionConfig:
    """Which timm model, and how it is used.

    Attributes:
        name: of the timm model.
        image_hw: (height, width) in pixels; a multiple of the model's stride.
        options: keyword arguments of `timm.create_model`; those allowed stand in `model/options.py`.
        mean, std: of the pixels in [0, 1]; CLIP's by default, as published.
        local_depth: ViT only: blocks that run again for each region (published: 4).
        stem_blocks: EfficientNet only: leading blocks that stay frozen, so that their output may be computed
            once and kept (`model/stem.py`).
        freeze_norm: BatchNorm keeps its pre-trained statistics while training.
        patch_dropout: grid encoders only: share of patches that, while training, neither a concept's vector
            nor a text sees; others in every step.  For small sets of images, soon known by heart.
    """

    name: str = "swin_base_patch4_window7_224"
    image_hw: tuple[PositiveInt, PositiveInt] = (224, 224)
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = CLIP_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = CLIP_STD
    local_depth: PositiveInt = 4
    stem_blocks: NonNegativeInt = 0
    freeze_norm: bool = False
    patch_dropout: Decay = 0.0


@dataclass(frozen=True)
class ImageFeatures:
    """Images after the vision encoder.

    Attributes:
        tokens_BPD: (B, P, D) patches, row-major; ViT encoders have the class token first.
        grid_hw: (rows, columns) of patches.
        before_local_BPD: ViT only: the tokens before the blocks that run again for regions.
    """

    tokens_BPD: Tensor
    grid_hw: tuple[int, int]
    before_local_BPD: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens_BPD.shape[0]


class VisionEncoder(nn.Module):
    """What every kind shares: normalisation, frozen parts.  Subclasses say what tokens and concepts are."""

    width: int
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.stem: nn.Module | None = None
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1) * 255, persistent=False)

    def normalised(self, images: Images) -> Tensor:
        """(B, 3, h, w) uint8 -> float, in the parameters' precision; what a stem has seen passes as it is."""
        pixels = images.pixels_BCHW.to(self.mean.dtype)
        if images.after_stem:
            return pixels
        return (pixels - self.mean) / self.std

    def tower(self) -> nn.Module:
        """The timm model's parts in its own order, stem first."""
        return self.model if self.stem is None else nn.ModuleList([self.stem, self.model])

    def train(self, mode: bool = True) -> VisionEncoder:
        """Training mode, but for BatchNorm whose statistics are frozen."""
        super().train(mode)
        if self.config.freeze_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Images) -> ImageFeatures:
        """B images -> their tokens (B, P, D)."""
        raise TypeError(f"{type(self).__name__} does not say what its tokens are")

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """What texts look at, for N concepts and then, after them, for the B whole images.

        Returns:
            (tokens of N + B concepts, their vectors v_cls (N + B, D)).
        """
        raise TypeError(f"{type(self).__name__} does not say what its concepts are")

    def whole_mask(self, features: ImageFeatures, concepts: Concepts) -> Tensor:
        """(N + B, rows * columns) bool: the patches of each concept, then all of each image."""
        mask_NP = patches_touched(concepts.box_xyxy_N4, features.grid_hw)
        whole_BP = mask_NP.new_ones(len(features), mask_NP.shape[1])
        return torch.cat((mask_NP, whole_BP))


class GridEncoder(VisionEncoder):
    """A feature map as patches."""

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__(model, config)
        if hasattr(model, "head"):
            # Only timm's classifier uses it (ConvNeXt's has a norm); DDP would wait for its gradients.
            model.head.requires_grad_(False)
        self.width = int(model.num_features)  # type: ignore[arg-type]
        self.channels_last_output = getattr(model, "output_fmt", "NCHW") == "NHWC"
        # A CNN's map is not normed and carries no position; a Swin's is and does.
        self.norm = nn.Identity() if self.channels_last_output else nn.LayerNorm(self.width)
        self.adds_position = not self.channels_last_output
        if not self.channels_last_output:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Images) -> ImageFeatures:
        """B images -> (B, P, D), P = rows * columns of the final map.

        Raises InputError if the model gives no map.
        """
        x_BCHW = self.normalised(images)
        if self.channels_last_output:
            x = self.model.forward_features(x_BCHW)  # type: ignore[operator]
        else:
            x = self.convolve(x_BCHW, images.after_stem)
        if x.ndim != 4:
            raise InputError(
                f"{self.config.name} gives features {tuple(x.shape)}; an encoder needs a map (B, D, h, w) or "
                "(B, h, w, D), or has to be a VisionTransformer with a class token"
            )
        x_BHWD = x if self.channels_last_output else x.permute(0, 2, 3, 1)
        return ImageFeatures(self.norm(x_BHWD.flatten(1, 2)), (x_BHWD.shape[1], x_BHWD.shape[2]))

    def convolve(self, x_BCHW: Tensor, after_stem: bool) -> Tensor:
        """(B, C, H, W) -> the final map (B, D, h, w).

        Channels last, which is fastest on CPU and GPU; on a CPU never in bfloat16, in which the backward pass
        of convolutions is slower than in float32.
        """
        with torch.autocast(
            x_BCHW.device.type, enabled=torch.is_autocast_enabled(x_BCHW.device.type) and not x_BCHW.is_cpu
        ):
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            if self.stem is not None and not after_stem:
                with torch.no_grad():
                    x_BCHW = self.stem(x_BCHW)
            return self.model.forward_features(x_BCHW)  # type: ignore[operator, no-any-return]

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Every concept looks at its image's tokens (P, D), all at the one set of keys and values."""
        tokens_BPD = features.tokens_BPD
        images = torch.arange(len(features), device=tokens_BPD.device)
        set_C = torch.cat((concepts.image_N, images))
        mask_CP = self.whole_mask(features, concepts)
        if self.training and self.config.patch_dropout:
            hidden_BP = torch.rand(tokens_BPD.shape[:2], device=mask_CP.device) < self.config.patch_dropout
            seen_CP = mask_CP & ~hidden_BP.index_select(0, set_C)
            # A concept of which nothing would be seen is seen whole.
            mask_CP = torch.where(seen_CP.any(1, keepdim=True), seen_CP, mask_CP)
        share_CP = mask_CP.to(tokens_BPD.dtype) / mask_CP.sum(-1, keepdim=True)
        share_NP, share_BP = share_CP.split((len(concepts), len(features)))
        with torch.autocast(share_CP.device.type, enabled=False):
            region_ND = (share_NP[:, None] @ tokens_BPD.index_select(0, concepts.image_N))[:, 0]
            whole_BD = (share_BP[:, None] @ tokens_BPD)[:, 0]
        cls_CD = torch.cat((region_ND, whole_BD))
        if self.adds_position:
            position_PD = sincos_position(features.grid_hw, self.width).to(tokens_BPD)
            tokens_BPD = tokens_BPD + position_PD
        return ConceptTokens(tokens_BPD, set_C, mask_CP, mean_summary=True, grid_hw=features.grid_hw), cls_CD


class ViTEncoder(VisionEncoder):
    """Class token and patches; regions by local attention."""

    def __init__(self, model: nn.Module, config: VisionConfig) -> None:
        super().__init__(model, config)
        self.width = int(model.num_features)  # type: ignore[arg-type]
        if model.num_prefix_tokens != 1:
            raise InputError(
                f"{config.name} has {model.num_prefix_tokens} tokens before its patches; "
                "this encoder needs exactly one, the class token"
            )
        if not 0 < config.local_depth <= len(model.blocks):  # type: ignore[arg-type]
            raise InputError(
                f"local_depth is {config.local_depth}; {config.name} has {len(model.blocks)} blocks"  # type: ignore[arg-type]
            )

    def forward(self, images: Images) -> ImageFeatures:
        """B images -> (B, 1 + P, D)."""
        model: Any = self.model
        x_BCHW = self.normalised(images)
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x_BCHW))))
        shared = len(model.blocks) - self.config.local_depth
        for block in model.blocks[:shared]:
            x = block(x)
        before_local = x
        for block in model.blocks[shared:]:
            x = block(x)
        stride = model.patch_embed.feat_ratio()
        grid_hw = (x_BCHW.shape[2] // stride, x_BCHW.shape[3] // stride)
        return ImageFeatures(model.norm(x), grid_hw, before_local)

    def concepts(self, features: ImageFeatures, concepts: Concepts) -> tuple[ConceptTokens, Tensor]:
        """Regions get token sets (1 + P, D) of their own, after those of the B whole images."""
        model: Any = self.model
        assert features.before_local_BPD is not None
        images = torch.arange(len(features), device=features.tokens_BPD.device)
        mask_CP = F.pad(self.whole_mask(features, concepts), (1, 0), value=True)
        region_N = concepts.has_box_N.nonzero()[:, 0]
        x = features.before_local_BPD.index_select(0, concepts.image_N[region_N])
        # Additive, since timm's unfused path adds whatever mask it is given.
        mask = torch.zeros_like(mask_CP[region_N], dtype=x.dtype).masked_fill(
            ~mask_CP[region_N], torch.finfo(x.dtype).min
        )
        for block in model.blocks[len(model.blocks) - self.config.local_depth :]:
            x = block(x, attn_mask=mask[:, None, None, :])
        sets_SPD = torch.cat((features.tokens_BPD, model.norm(x)))
        set_N = concepts.image_N.index_copy(
            0, region_N, len(features) + torch.arange(len(region_N), device=region_N.device)
        )
        set_C = torch.cat((set_N, images))
        return ConceptTokens(
            sets_SPD, set_C, mask_CP, mean_summary=False, grid_hw=features.grid_hw
        ), sets_SPD[:, 0].index_select(0, set_C)


def sincos_position(grid_hw: tuple[int, int], width: int) -> Tensor:
    """Fixed 2-D position embedding (rows * columns, width), of about the scale of normed tokens.

    A quarter of the width each for sine and cosine of the row and of the column, at wavelengths from 2
    patches to 20 times the grid; components are scaled to unit mean square.
    """
    quarter = width // 4
    frequency = torch.pi / torch.logspace(0, 1, quarter, base=20 * max(grid_hw) / 2)
    row, column = torch.meshgrid(torch.arange(grid_hw[0]), torch.arange(grid_hw[1]), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (row.float(), column.float())]
    parts = [function(angle) for angle in angles for function in (torch.sin, torch.cos)]
    return F.pad(torch.cat(parts, dim=1) * 2**0.5, (0, width - 4 * quarter))


def check_image_size(model: nn.Module, config: VisionConfig) -> None:
    """Raise InputError if patches do not cover the images exactly."""
    patches: Any = getattr(model, "patch_embed", None)
    feature_info: Any = getattr(model, "feature_info", None)
    if isinstance(model, VisionTransformer):
        stride = patches.feat_ratio()
    elif feature_info:
        stride = feature_info[-1]["reduction"]
    else:
        return
    if any(side % stride for side in config.image_hw):
        raise InputError(
            f"image_hw is {config.image_hw}; height and width must be multiples of {stride}, the stride of "
            f"{config.name}"
        )


def window_at(model: nn.Module, config: VisionConfig) -> dict[str, tuple[int, int]]:
    """The window of a Swin at another resolution, as many times in the image as before; nothing for others.

    Older versions of timm take an eighth of the grid instead, whatever the window was.
    """
    blocks: list[Any] = [one for one in model.modules() if hasattr(one, "shift_size")]
    if not blocks or isinstance(config.options.get("window_size"), list | tuple):
        return {}
    embed: Any = model.patch_embed
    sides = zip(blocks[0].window_size, config.image_hw, embed.patch_size, embed.grid_size, strict=True)
    height, width = (max(1, window * (side // patch) // before) for window, side, patch, before in sides)
    return {"window_size": (height, width)}


def build_vision(config: VisionConfig, pretrained: bool = False) -> VisionEncoder:
    """A timm model as an encoder of the kind that it is.

    Raises InputError for a name that timm does not know or that is no plain name, an option that is not
    allowed or that the model cannot take, an image size that is no multiple of the stride, a transformer that
    is no plain ViT, or a setting for encoders of another kind.
    """
    model = create_checked(config.name, config.options, config.image_hw, pretrained)
    check_image_size(model, config)
    make_blocks_frugal(model)
    make_mlps_frugal(model)
    if hasattr(model, "patch_embed") and hasattr(model, "set_input_size"):
        patch_hw = getattr(model.patch_embed, "patch_size", (1, 1))
        if any(side % patch for side, patch in zip(config.image_hw, patch_hw, strict=True)):
            raise InputError(
                f"{config.name} takes no images of {config.image_hw}: sides must be multiples of {patch_hw}"
            )
        try:
            model.set_input_size(img_size=config.image_hw, **window_at(model, config))
        except (ValueError, AssertionError, RuntimeError) as error:
            raise InputError(
                f"{config.name} takes no images of {config.image_hw}: {describe(error)}"
            ) from error
    if isinstance(model, VisionTransformer):
        for name in ("stem_blocks", "patch_dropout"):
            if getattr(config, name):
                raise InputError(f"{config.name} is a ViT; {name} is for encoders with a feature map")
        return ViTEncoder(model, config)
    if hasattr(model, "cls_token"):
        raise InputError(
            f"{config.name} is a {type(model).__name__}; with a class token only VisionTransformer is known"
        )
    encoder = GridEncoder(model, config)
    if config.stem_blocks:
        encoder.stem = split_stem(model, config.stem_blocks, config.name)
    return encoder
