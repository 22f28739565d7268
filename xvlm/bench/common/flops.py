"""Useful operations: floating-point operations that the definition of the model requires.

They are counted for the real lengths of the texts, for every token in every layer, and for keys and values
once an image; padding, copies and repeated projections do not count.  A multiplication and an addition are
two operations, and the backward pass costs twice the forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xvlm.batch import Images
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.build import build_vision
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.pretraining_batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain


def per_token(config: TextConfig, cross: bool) -> float:
    """Count the linear layers of one layer for one text token; `cross` adds those of cross-attention."""
    width = config.width
    return 8 * width**2 + 4 * width * config.mlp_width + 4 * width**2 * cross


def layers_forward(config: TextConfig, length_R: Tensor, layers: int, context: int = 0) -> float:
    """Count layers for rows of (R,) lengths; keys and values are in `keys_values_forward`.

    Args:
        context: tokens that each text token attends to, in cross-modal layers.
    """
    length_R = length_R.double()
    tokens = length_R.sum()
    linear = per_token(config, cross=context > 0) * tokens
    attention = 4 * config.width * (length_R.square().sum() + context * tokens)
    return float(layers * (linear + attention))


def keys_values_forward(config: TextConfig, context_dim: int, tokens: int) -> float:
    """Count the keys and values of `tokens` context tokens in all cross-modal layers."""
    return float(config.cross_layers * 4 * context_dim * config.width * tokens)


def linear_forward(module: nn.Module, rows: int) -> float:
    """Count all linear layers of a module for `rows` inputs."""
    return float(sum(2 * m.weight.numel() * rows for m in module.modules() if isinstance(m, nn.Linear)))


def blank_image(model: XVLM, device: torch.device | str) -> Images:
    """Return a batch of one black image."""
    height, width = model.config.vision.image_hw
    return Images(torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device))


def vision_work(model: XVLM, train: bool) -> float:
    """Count the vision encoder for one image, with the backward pass if `train`."""
    # A new encoder on the CPU: the counter knows every operation of timm's code, but neither kernels nor
    # what the memory-efficient forms compute twice.
    vision = build_vision(model.config.vision)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(train):
        tokens_BPD = vision(blank_image(model, "cpu")).tokens_BPD
        if train and tokens_BPD.requires_grad:
            tokens_BPD.sum().backward()
    return float(counter.get_total_flops())


def image_tokens(model: XVLM) -> int:
    """Return the number of tokens of an image."""
    with torch.no_grad():
        return int(model.encode_images(blank_image(model, model.vision.mean.device)).tokens_BPD.shape[1])


def step_work(task: Pretrain, batch: PretrainBatch) -> float:
    """Count a training step on `batch`, forward and backward, without the optimizer."""
    model, w, config = task.model, task.weights, task.model.config.text
    rows, images = len(batch.concepts), len(batch.images)
    length_N, masked_F = batch.texts.lengths_N.split([rows, len(batch.fused_F)])
    length_F = length_N[batch.fused_F]
    boxed_N = length_N[batch.concepts.has_box_N]
    passes = []
    if w.itm:
        # Negative texts are sampled later, so the mean length stands for theirs.
        passes += [length_F, length_F, length_N.double().mean().expand(len(length_F))]
    if w.mlm:
        passes.append(masked_F)
    if w.bbox or w.giou:
        passes.append(boxed_N)
    encoded = [length_N, masked_F] if w.mlm else [length_N]
    forward = sum(layers_forward(config, one, config.text_layers) for one in encoded)
    context = image_tokens(model)
    forward += sum(layers_forward(config, one, config.cross_layers, context) for one in passes)
    if passes:
        forward += keys_values_forward(config, model.vision.width, context * images)
    if w.itc or w.itm:
        forward += linear_forward(model.contrastive, rows)
    if w.itm:
        forward += linear_forward(model.matching, 3 * len(length_F))
    if w.mlm:
        masked_tokens = len(batch.masked_target_M)
        forward += linear_forward(model.mlm, masked_tokens)
        forward += 2 * config.width * config.vocab_size * masked_tokens
    if w.bbox or w.giou:
        forward += linear_forward(model.box, len(boxed_N))
    return vision_work(model, train=True) * images + 3 * forward


def pair_work(model: XVLM, tokens: float) -> float:
    """Count the matching of one text of `tokens` with one image whose keys and values are cached."""
    config = model.config.text
    forward = layers_forward(config, torch.tensor([tokens]), config.cross_layers, image_tokens(model))
    return forward + linear_forward(model.matching, 1)
