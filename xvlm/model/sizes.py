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
    found = numbers_in(path)
    most = max(_SPARE * sum(found.values()), _LEAST)
    for what, numbers in {**text_numbers(config), "vision": vision_numbers(config)}.items():
        if numbers > most:
            raise InputError(
                f"{what} would have {numbers:,} numbers, {path} has {sum(found.values()):,}: the "
                "configuration is not that of these tensors"
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
