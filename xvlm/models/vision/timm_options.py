"""Options of timm models that a configuration may set: sizes, rates and switches, and no others.

A configuration may come from somebody else (`config.json` of a model folder), and timm has options that read
files, load pickles and download.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import timm

from xvlm.common.errors import InputError, describe_error

MAX_SIDE = 4096
"""Maximum side of an image in pixels."""
_MAX_MASK_ELEMENTS = 2**31
_ERRORS = (TypeError, ValueError, AssertionError, RuntimeError, LookupError, ArithmeticError, AttributeError)
"""Errors that timm's constructors raise for sizes that do not fit each other."""
_PLAIN_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)

_SIZES = {  # option -> (minimum, maximum) of an integer, or of each in a list of integers
    **dict.fromkeys(("embed_dim", "stem_width", "channels", "dims", "layers", "num_heads"), (1, 16384)),
    **dict.fromkeys(("depth", "depths"), (1, 512)),
    **dict.fromkeys(("img_size",), (1, MAX_SIDE)),
    **dict.fromkeys(("patch_size", "window_size"), (1, 512)),
    "output_stride": (8, 32),
    "reg_tokens": (0, 64),
}
_RATES = {  # option -> (minimum, maximum) of a number, or of each in a list of numbers
    **dict.fromkeys(("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"), (0.0, 0.999)),
    "mlp_ratio": (0.01, 64.0),
    "init_values": (0.0, 10.0),
    "ls_init_value": (0.0, 10.0),
}
_SWITCHES = ("class_token", "dynamic_img_size", "no_embed_class", "pre_norm", "qkv_bias", "qk_norm")
OPTIONS = (*_SIZES, *_RATES, *_SWITCHES)


def check_timm_model(name: str, options: Mapping[str, Any], image_hw: tuple[int, int]) -> None:
    """Raise InputError if a name, an option or an image size is not allowed, without building the model."""
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError(
            f"vision.name is {name[:100]!r}; it must be the plain name of a timm model, such as "
            "'swin_base_patch4_window7_224', and neither an address nor a path"
        )
    check_options(options)
    check_image_hw(image_hw, options)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise InputError(f"timm has no model {name!r}; near are {', '.join(near) or 'none'}")


def create_timm_model(
    name: str, options: Mapping[str, Any], image_hw: tuple[int, int], pretrained: bool = False
) -> Any:
    """Build a timm model without its classifier, after the checks of `check_timm_model`.

    Raises InputError if a check fails or timm cannot build the model.
    """
    check_timm_model(name, options, image_hw)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except _ERRORS as error:
        raise InputError(f"timm cannot build {name} with {dict(options)}: {describe_error(error)}") from error


def check_options(options: Mapping[str, Any]) -> None:
    """Raise InputError if an option is not in `OPTIONS` or is out of its range."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise InputError(f"vision.options has {name!r}; allowed are {', '.join(sorted(OPTIONS))}")
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise InputError(f"vision.options.{name} is {str(value)[:60]!r}; it must be true or false")
            continue
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        types, kind = ((int,), "whole number") if name in _SIZES else ((int, float), "number")
        low, high = _SIZES.get(name) or _RATES[name]
        if not 1 <= len(values) <= 16 or not all(type(one) in types and low <= one <= high for one in values):
            raise InputError(
                f"vision.options.{name} is {str(value)[:60]!r}; it must be a {kind} of {low} to {high}, "
                "or up to 16 of them"
            )
    depths = options.get("depths", 0)
    if isinstance(depths, (list, tuple)) and sum(depths) > 512:
        raise InputError(f"vision.options.depths sum to {sum(depths)}; at most 512 blocks are allowed")


def check_image_hw(image_hw: tuple[int, int], options: Mapping[str, Any]) -> None:
    """Raise InputError if an image size is out of range, or too large for the option `window_size`."""
    if not all(1 <= side <= MAX_SIDE for side in image_hw):
        raise InputError(f"vision.image_hw is {image_hw}; each side must be 1 to {MAX_SIDE} pixels")
    window = options.get("window_size", 0)
    longest = max(window) if isinstance(window, (list, tuple)) else window
    if math.prod(image_hw) // 16 * longest**2 > _MAX_MASK_ELEMENTS:
        raise InputError(
            f"vision.options.window_size is {window} at images of {image_hw}: its masks would have more than "
            f"{_MAX_MASK_ELEMENTS:,} elements"
        )
