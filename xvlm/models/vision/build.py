"""Build the image encoder that a configuration names: a timm model, or an encoder of the user's own."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from xvlm import registry
from xvlm.common.errors import InputError, describe_error
from xvlm.models.vision.encoder import VisionConfig, VisionEncoder
from xvlm.models.vision.finer_map import add_finer_map
from xvlm.models.vision.frozen_stem import split_stem
from xvlm.models.vision.grid import GridEncoder
from xvlm.models.vision.timm_options import check_image_hw, create_timm_model
from xvlm.models.vision.vit import ViTEncoder

set_fused_attn(True, experimental=True)  # timm calls Swin's fused attention experimental


def build_vision(config: VisionConfig, pretrained: bool = False) -> VisionEncoder:
    """Build an image encoder.

    A timm model becomes a `ViTEncoder` if it is a VisionTransformer, else a `GridEncoder`.  A module of the
    user's own defines `build_encoder(config: VisionConfig, pretrained: bool) -> VisionEncoder`.

    Args:
        pretrained: whether to load timm's pre-trained weights.
    Raises:
        InputError: the name is unknown, an option is not allowed or does not fit the model, the image size
            is not a multiple of the stride, the model is another transformer than a plain ViT, or a setting
            is for another kind of encoder.
    """
    module = find_encoder_module(config.name)
    if module is not None:
        return _build_custom(module, config, pretrained)
    model = create_timm_model(config.name, config.options, config.image_hw, pretrained)
    _check_stride(model, config)
    _set_image_size(model, config)
    if isinstance(model, VisionTransformer):
        for name in ("frozen_stem_blocks", "patch_dropout", "finer_map"):
            if getattr(config, name):
                raise InputError(f"{config.name} is a ViT; {name} is for encoders with a feature map")
        return ViTEncoder(model, config)
    if hasattr(model, "cls_token"):
        raise InputError(
            f"{config.name} is a {type(model).__name__}; with a class token only VisionTransformer is known"
        )
    encoder = GridEncoder(model, config)
    if config.frozen_stem_blocks:
        encoder.stem = split_stem(model, config.frozen_stem_blocks, config.name)
    if config.finer_map:
        add_finer_map(encoder)
    return encoder


def find_encoder_module(name: str) -> ModuleType | None:
    """Import the Python file or the entry point of `xvlm.encoders` with this name, if there is one."""
    if name.endswith(".py"):
        return registry.find("encoders", name)
    entry_point = registry.installed("encoders").get(name)
    return entry_point.load() if entry_point else None


def _build_custom(module: ModuleType, config: VisionConfig, pretrained: bool) -> VisionEncoder:
    check_image_hw(config.image_hw, {})
    build = getattr(module, "build_encoder", None)
    encoder = build(config, pretrained) if callable(build) else None
    if not isinstance(encoder, VisionEncoder):
        raise InputError(
            f"{config.name} must define a function build_encoder(config, pretrained) that returns a "
            "VisionEncoder"
        )
    return encoder


def _check_stride(model: nn.Module, config: VisionConfig) -> None:
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


def _set_image_size(model: Any, config: VisionConfig) -> None:
    """Resize the position embeddings and windows of a timm model that depends on the image size."""
    if not (hasattr(model, "patch_embed") and hasattr(model, "set_input_size")):
        return
    patch_hw = getattr(model.patch_embed, "patch_size", (1, 1))
    if any(side % patch for side, patch in zip(config.image_hw, patch_hw, strict=True)):
        raise InputError(
            f"{config.name} takes no images of {config.image_hw}: sides must be multiples of {patch_hw}"
        )
    try:
        model.set_input_size(img_size=config.image_hw, **_window_size(model, config))
    except (ValueError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"{config.name} takes no images of {config.image_hw}: {describe_error(error)}"
        ) from error


def _window_size(model: nn.Module, config: VisionConfig) -> dict[str, tuple[int, int]]:
    """Return the option `window_size` that keeps a Swin's number of windows; empty for other models.

    timm before 1.0.31 would take an eighth of the grid instead, whatever the window was.
    """
    blocks: list[Any] = [module for module in model.modules() if hasattr(module, "shift_size")]
    if not blocks or isinstance(config.options.get("window_size"), list | tuple):
        return {}
    embed: Any = model.patch_embed
    sides = zip(blocks[0].window_size, config.image_hw, embed.patch_size, embed.grid_size, strict=True)
    height, width = (max(1, window * (side // patch) // before) for window, side, patch, before in sides)
    return {"window_size": (height, width)}
