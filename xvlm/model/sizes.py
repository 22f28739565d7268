"""Sizes of a model folder's configuration, compared with its tensors before memory is taken for them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from xvlm.errors import InputError
from xvlm.model.options import check_all, create_checked
from xvlm.model.xvlm import ModelConfig

_SPARE = 4
"""How many times as many numbers a model may have as its file: positions may be of another resolution."""
_LEAST = 10_000_000


def numbers_in(path: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file has, by its header alone.

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
    sizes = {
        "embed_dim": config.embed_dim,
        "vision.local_depth": config.vision.local_depth,
        **{f"text.{name}": getattr(config.text, name) for name in _TEXT_SIZES},
    }
    least = {"text.text_layers": 0, "text.cross_layers": 0}
    for name, value in sizes.items():
        if value < least.get(name, 1):
            raise InputError(f"{name} is {value}; it must be at least {least.get(name, 1)}")
    if config.text.first_position < 0 or config.vision.stem_blocks < 0:
        raise InputError("text.first_position and vision.stem_blocks may not be negative")
    if config.text.width % config.text.heads:
        raise InputError(f"text.heads is {config.text.heads}; it must divide text.width, {config.text.width}")
    found = numbers_in(path)
    most = max(_SPARE * sum(found.values()), _LEAST)
    for what, numbers in {**text_numbers(config), "vision": vision_numbers(config)}.items():
        if numbers > most:
            raise InputError(
                f"{what} would have {numbers:,} numbers, {path} has {sum(found.values()):,}: the "
                "configuration is not that of these tensors"
            )


_TEXT_SIZES = (
    "vocab_size",
    "width",
    "heads",
    "mlp_width",
    "text_layers",
    "cross_layers",
    "max_positions",
    "type_vocab_size",
)


def text_numbers(config: ModelConfig) -> dict[str, int]:
    """What the parts beside the image encoder have at least, by the fields that say so."""
    text = config.text
    layers = text.text_layers + text.cross_layers
    return {
        "text.vocab_size x text.width": text.vocab_size * text.width,
        "text.max_positions x text.width": text.max_positions * text.width,
        "text.type_vocab_size x text.width": text.type_vocab_size * text.width,
        "text.width, text.mlp_width and the layers": layers
        * text.width
        * (4 * text.width + 2 * text.mlp_width),
        "embed_dim x text.width": config.embed_dim * text.width,
    }


def vision_numbers(config: ModelConfig) -> int:
    """Parameters of the image encoder, built without memory; 0 for one that cannot be built so."""
    vision = config.vision
    check_all(vision.name, vision.options, vision.image_hw)
    try:
        with torch.device("meta"):
            model = create_checked(vision.name, vision.options, vision.image_hw)
    except InputError:
        return 0  # it asks for values while it is built, or building it says what is wrong
    return sum(parameter.numel() for parameter in model.parameters())
