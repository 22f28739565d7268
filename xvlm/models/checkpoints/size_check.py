"""Compare the sizes in a model folder's configuration with its tensors before memory is allocated."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xvlm.common.errors import InputError
from xvlm.models.vision.build import find_encoder_module
from xvlm.models.vision.timm_options import check_timm_model, create_timm_model
from xvlm.models.xvlm import ModelConfig

_TOLERANCE = 4
"""Maximum ratio of a model's size to that of its file: positions may be those of another resolution."""
_MINIMUM = 10_000_000


def count_elements(path: Path) -> dict[str, int]:
    """Read the number of elements of each tensor from the header of a safetensors file.

    Raises InputError if the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no file of tensors, or a damaged one: {error}") from error


def check_sizes(config: ModelConfig, path: Path) -> None:
    """Raise InputError, naming the size, if a model of `config` would be far larger than its file of tensors.

    Args:
        path: `model.safetensors`, of which only the header is read.
    """
    total = sum(count_elements(path).values())
    for name, count in {**_text_sizes(config), "vision": vision_size(config)}.items():
        if count > max(_TOLERANCE * total, _MINIMUM):
            raise InputError(
                f"{name} would have {count:,} numbers, {path} has {total:,}: the "
                "configuration is not that of these tensors"
            )


def _text_sizes(config: ModelConfig) -> dict[str, int]:
    """Return minimum sizes of the parts other than the image encoder, by the fields that set them."""
    text = config.text
    layer = text.width * (4 * text.width + 2 * text.mlp_width)
    return {
        "text.vocab_size x text.width": text.vocab_size * text.width,
        "text.max_positions x text.width": text.max_positions * text.width,
        "text.type_vocab_size x text.width": text.type_vocab_size * text.width,
        "text.width, text.mlp_width and the layers": (text.text_layers + text.cross_layers) * layer,
        "embed_dim x text.width": config.embed_dim * text.width,
    }


def vision_size(config: ModelConfig) -> int:
    """Return the number of parameters of a timm image encoder, which is built without allocating memory.

    Returns 0 for one that cannot be built so, and for an encoder of the user's own.
    """
    vision = config.vision
    if find_encoder_module(vision.name) is not None:
        return 0
    check_timm_model(vision.name, vision.options, vision.image_hw)
    try:
        with torch.device("meta"):
            model = create_timm_model(vision.name, vision.options, vision.image_hw)
    except InputError:
        return 0  # its constructor reads values of tensors; or it cannot be built, and building it says why
    return sum(parameter.numel() for parameter in model.parameters())
