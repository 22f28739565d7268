"""How much there is to compute, as the model is defined: useful operations (design, section 6).

Counted from the real lengths of the texts, every token in every layer; keys and values once for each image.
What an implementation spends on padding, on copies or on projecting the same thing again is not in it.  A
multiplication and an addition are two operations; the backward pass costs twice the forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xvlm.batch import Images
from xvlm.model.text import TextConfig
from xvlm.model.xvlm import XVLM
from xvlm.tasks._batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain


def per_token(config: TextConfig, cross: bool) -> float:
    """Linear layers of one text token in one layer."""
    width = config.width
    own = 8 * width**2 + 4 * width * config.mlp_width
    return own + 4 * width**2 * cross


def text_forward(config: TextConfig, length_N: Tensor, layers: int) -> float:
    """(N,) texts of so many tokens through layers that read texts alone."""
    length_N = length_N.double()
    linear = per_token(config, cross=False) * length_N.sum()
    return float(layers * (linear + 4 * config.width * length_N.square().sum()))


def cross_forward(config: TextConfig, length_R: Tensor, seen: int) -> float:
    """(R,) rows of so many tokens through the cross-modal layers, each token looking at `seen` others.

    Keys and values of what is seen are not in it: see `keys_values_forward`.
    """
    length_R = length_R.double()
    tokens = length_R.sum()
    linear = per_token(config, cross=True) * tokens
    attention = 4 * config.width * (length_R.square().sum() + seen * tokens)
    return float(config.cross_layers * (linear + attention))


def keys_values_forward(config: TextConfig, looked_width: int, tokens: int) -> float:
    """Keys and values of so many image tokens, in all cross-modal layers."""
    return float(config.cross_layers * 4 * looked_width * config.width * tokens)


def linear_forward(module: nn.Module, rows: int) -> float:
    """All linear layers below `module` once for each of `rows`."""
    return float(sum(2 * m.weight.numel() * rows for m in module.modules() if isinstance(m, nn.Linear)))


def blank(model: XVLM) -> Images:
    """One image of the model's size."""
    height, width = model.config.vision.image_hw
    return Images(torch.zeros(1, 3, height, width, dtype=torch.uint8, device=model.vision.mean.device))


def vision_work(model: XVLM, train: bool) -> float:
    """One image through the vision encoder, as counted by PyTorch; with the backward pass if `train`."""
    counter = FlopCounterMode(display=False)
    # The unfused kernel is made of products that the counter knows, whatever the device.
    with counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(train):
        tokens_BPD = model.encode_images(blank(model)).tokens_BPD
        if train and tokens_BPD.requires_grad:
            tokens_BPD.sum().backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def patches(model: XVLM) -> int:
    """Tokens of an image that a text can look at."""
    with torch.no_grad():
        return int(model.encode_images(blank(model)).tokens_BPD.shape[1])


def step_work(task: Pretrain, batch: PretrainBatch) -> float:
    """Operations of a step on `batch`, forward and backward; the optimiser's own are not in it."""
    model, w, config = task.model, task.weights, task.model.config.text
    rows, images = len(batch.concepts), len(batch.images)
    length_N, masked_F = batch.texts.lengths_N.split([rows, len(batch.fused_F)])
    asked_F = length_N[batch.fused_F]
    boxed_N = length_N[batch.concepts.has_box_N]
    passes = []
    if w.itm:
        # As drawn texts are not known before, each counts as a mean one.
        drawn_F = length_N.double().mean().expand(len(asked_F))
        passes += [asked_F, asked_F, drawn_F]
    if w.mlm:
        passes.append(masked_F)
    if w.bbox or w.giou:
        passes.append(boxed_N)
    read = [length_N, masked_F] if w.mlm else [length_N]
    forward = sum(text_forward(config, one, config.text_layers) for one in read)
    seen = patches(model)
    forward += sum(cross_forward(config, one, seen) for one in passes)
    if passes:
        forward += keys_values_forward(config, model.vision.width, seen * images)
    if w.itc or w.itm:
        forward += linear_forward(model.contrastive, rows)
    if w.itm:
        forward += linear_forward(model.matching, 3 * len(asked_F))
    if w.mlm:
        vocabulary = 2 * config.width * config.vocab_size
        masks = len(batch.masked_target_M)
        forward += linear_forward(model.masked, masks) + vocabulary * masks
    if w.bbox or w.giou:
        forward += linear_forward(model.box, len(boxed_N))
    return vision_work(model, train=True) * images + 3 * forward


def pair_work(model: XVLM, tokens: float) -> float:
    """Operations of matching one text of `tokens` with one image whose keys and values are at hand."""
    config = model.config.text
    forward = cross_forward(config, torch.tensor([tokens]), patches(model))
    return forward + linear_forward(model.matching, 1)
