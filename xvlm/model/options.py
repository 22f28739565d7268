"""Options of timm models that a configuration may set: sizes, rates and switches, and no others.

A configuration may be somebody else's (`config.json` of a model folder), and timm has options that read
files, load pickles and download.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import timm

from xvlm.errors import InputError

MAX_SIDE = 4096
"""Of an image, in pixels."""
_MAX_WINDOW_NUMBERS = 2**31
_TIMM_ERRORS = (
    TypeError,
    ValueError,
    AssertionError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AttributeError,
)
"""What its constructors raise for sizes that do not go together."""
_PLAIN_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)

_SIZES = {  # option -> (smallest, largest) of a whole number, or of each in a list of them
    **dict.fromkeys(("embed_dim", "stem_width", "channels", "dims", "layers", "num_heads"), (1, 16384)),
    **dict.fromkeys(("depth", "depths"), (1, 512)),
    **dict.fromkeys(("img_size",), (1, MAX_SIDE)),
    **dict.fromkeys(("patch_size", "window_size"), (1, 512)),
    "output_stride": (8, 32),
    "reg_tokens": (0, 64),
}
_RATES = {  # option -> (smallest, largest) of a number, or of each in a list of them
    **dict.fromkeys(("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"), (0.0, 0.999)),
    "mlp_ratio": (0.01, 64.0),
    "init_values": (0.0, 10.0),
    "ls_init_value": (0.0, 10.0),
}
_SWITCHES = ("class_token", "dynamic_img_size", "no_embed_class", "pre_norm", "qkv_bias", "qk_norm")
OPTIONS = (*_SIZES, *_RATES, *_SWITCHES)


def check_all(name: str, options: Mapping[str, Any], image_hw: tuple[int, int]) -> None:
    """Raise InputError for a name, an option or an image size that is not allowed; nothing is built."""
    check_name(name)
    check_options(options)
    check_image_hw(image_hw, options)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise InputError(f"timm has no model {name!r}; near are {', '.join(near) or 'none'}")


def create_checked(
    name: str, options: Mapping[str, Any], image_hw: tuple[int, int], pretrained: bool = False
) -> Any:
    """A timm model without its classifier, once everything is checked.

    Raises InputError as `check_all`, and for what timm cannot build.
    """
    check_all(name, options, image_hw)
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except _TIMM_ERRORS as error:
        raise InputError(f"timm cannot build {name} with {dict(options)}: {describe(error)}") from error


def describe(error: Exception) -> str:
    """Type and first line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def check_options(options: Mapping[str, Any]) -> None:
    """Raise InputError, with what is allowed, for an option that is not in `OPTIONS` or out of its range."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise InputError(f"vision.options has {name!r}; allowed are {', '.join(sorted(OPTIONS))}")
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise InputError(f"vision.options.{name} is {str(value)[:60]!r}; it must be true or false")
            continue
        kinds, what = ((int,), "whole number") if name in _SIZES else ((int, float), "number")
        low, high = _SIZES.get(name) or _RATES[name]
        if not 1 <= len(values) <= 16 or not all(type(one) in kinds and low <= one <= high for one in values):
            raise InputError(
                f"vision.options.{name} is {str(value)[:60]!r}; it must be a {what} of {low} to {high}, "
                "or up to 16 of them"
            )
    if sum(values) > 512 if isinstance(values := options.get("depths", 0), (list, tuple)) else False:
        raise InputError(f"vision.options.depths sum to {sum(values)}; at most 512 blocks are allowed")


def check_name(name: str) -> None:
    """Raise InputError for a model name that is more than a name: a hub's address, a folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError(
            f"vision.name is {name[:100]!r}; it must be the plain name of a timm model, such as "
            "'swin_base_patch4_window7_224', and neither an address nor a path"
        )


def check_image_hw(image_hw: tuple[int, int], options: Mapping[str, Any]) -> None:
    """Raise InputError for an image size that is out of range, or too large for the windows."""
    if not all(1 <= side <= MAX_SIDE for side in image_hw):
        raise InputError(f"vision.image_hw is {image_hw}; each side must be 1 to {MAX_SIDE} pixels")
    window = options.get("window_size", 0)
    longest = max(window) if isinstance(window, (list, tuple)) else window
    if math.prod(image_hw) // 16 * longest**2 > _MAX_WINDOW_NUMBERS:
        raise InputError(
            f"vision.options.window_size is {window} at images of {image_hw}: its masks would have more than "
            f"{_MAX_WINDOW_NUMBERS:,} numbers"
        )
