"""The map of an earlier stage, in which small objects have a place of their own.

The final map of most encoders has cells of 32 x 32 pixels: a photograph of 224 x 224 pixels has 49 of them,
and a fifth of the things that people name cover less than three.  The stage before has four times as many
cells, of features that know less about meaning; feature pyramids (Lin et al., CVPR 2017) combine the two.
"""

from __future__ import annotations

from typing import Any

import torch

from xvlm.batch import Images
from xvlm.common.errors import InputError
from xvlm.models.vision.grid import GridEncoder


def add_finer_map(encoder: GridEncoder) -> None:
    """Let an encoder return the last map that has more cells than its final one.

    With a frozen stem that is the stem's output, since the cache holds nothing earlier; otherwise it is the
    output of the last stage before the resolution of the final map.

    Raises InputError if the encoder has no such map.
    """
    config = encoder.config
    if encoder.stem is None:
        encoder.finer_stage = _earlier_stage(encoder.model, config.name)
    was_training = encoder.training
    with torch.no_grad():
        features = encoder.eval()(Images(torch.zeros(1, 3, *config.image_hw, dtype=torch.uint8)))
    encoder.train(was_training)
    finer_BChw = features.finer_BChw
    assert finer_BChw is not None
    if finer_BChw.shape[2] <= features.grid_hw[0]:
        raise InputError(
            f"frozen_stem_blocks is {config.frozen_stem_blocks}, whose output has {finer_BChw.shape[2]} rows "
            f"like the final map of {config.name}; finer_map needs a stem that ends at a higher resolution"
        )
    encoder.finer_width = finer_BChw.shape[1]


def _earlier_stage(model: Any, name: str) -> int:
    """Return the number of the last stage of a timm model whose resolution is above that of its last."""
    strides = [stage["reduction"] for stage in getattr(model, "feature_info", ())]
    earlier = [number for number, stride in enumerate(strides) if stride < strides[-1]]
    if not earlier or not hasattr(model, "forward_intermediates"):
        raise InputError(f"{name} does not give the map of an earlier stage; use finer_map=False")
    return earlier[-1]
