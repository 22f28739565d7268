"""Infer the sizes of a published model from its tensors; options provide those that leave no trace there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.checkpoints.position_resize import square_side
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig

KNOWN_HEADS = {768: 12, 1024: 16}
"""Attention heads of the published encoders by their width: base and large."""
LOCAL_DEPTH = 4
MAX_WINDOW, MAX_IMAGE = 64, 4096
"""Maximum sides of a Swin's windows in patches and images in pixels; larger tables fill the memory."""


@dataclass(frozen=True)
class UnseenSizes:
    """Sizes that tensors do not show; `None` takes the published value of an encoder of this width.

    Attributes:
        text_heads, vision_heads: attention heads of the text stack and of a ViT (a Swin's tables show them).
        local_depth: ViT only: number of last blocks that run again for each region.
        image_size: side of the images in pixels; `None` infers it from the position embeddings, which are
            interpolated for another size.
    """

    text_heads: int | None = None
    vision_heads: int | None = None
    local_depth: int | None = None
    image_size: int | None = None


def config_of(tensors: Mapping[str, Tensor], unseen: UnseenSizes) -> ModelConfig:
    """Infer the configuration of a published model from its state dict.

    Raises InputError if the state dict is not a published model's, or naming the option that provides a size.
    """
    for option, number in vars(unseen).items():
        if number is not None and number < 1:
            raise InputError(f"--{option.replace('_', '-')} is {number}; it must be 1 or more")
    heads = _model_heads(tensors)
    embeds = "vision_proj.weight" in tensors
    return ModelConfig(
        vision=vision_config_of(tensors, unseen),
        text=_text_config(tensors, unseen, doubled=bool({"pair_classifier", "text_assignment"} & set(heads))),
        embed_dim=_shape(tensors, "vision_proj.weight", 2)[0] if embeds else 256,
        heads=heads,
    )


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor.  Raises InputError if it is missing or empty, or has not `axes` axes."""
    if name not in tensors:
        raise InputError(f"the checkpoint lacks {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes or 0 in shape:
        raise InputError(
            f"the checkpoint's {name} is {shape}; it should have {axes} axes, none of them empty"
        )
    return shape


def _count(numbers: Iterable[int], what: str) -> int:
    """Return the number of layers with these numbers.  Raises InputError if one is missing."""
    present = sorted(set(numbers))
    if not present or present != list(range(len(present))):
        last = present[-1] if present else "none"
        raise InputError(
            f"the checkpoint's {what} are incomplete: {len(present)} of them, the last is {last}"
        )
    return len(present)


def _model_heads(names: Iterable[str]) -> tuple[str, ...]:
    """Return the heads in a state dict.  Raises InputError if there are none."""
    names = set(names)
    encodes = any(name.startswith("text_encoder.") for name in names)
    decodes = any(name.startswith("text_decoder.") for name in names)
    language = {"text_encoder.cls.predictions.bias", "text_encoder.lm_head.bias"}
    present = {
        "contrastive": "text_proj.weight" in names,
        "matching": "itm_head.0.weight" in names,
        "box": "bbox_head.0.weight" in names,
        "mlm": bool(language & names),
        "pair_classifier": "cls_head.0.weight" in names,
        "text_assignment": "ta_head.weight" in names,
        "vqa_decoder": encodes and decodes,
        "caption_decoder": decodes and not encodes,
    }
    heads = tuple(head for head, is_present in present.items() if is_present)
    if not heads:
        raise InputError(
            "this is no checkpoint of the published X-VLM: it has none of its heads (text_proj, itm_head, "
            "bbox_head, cls_head, ta_head) and no text_decoder"
        )
    return heads


def _text_config(tensors: Mapping[str, Tensor], unseen: UnseenSizes, doubled: bool) -> TextConfig:
    """Infer the sizes of the text stack, whose cross-modal layers come in two copies if `doubled` (NLVR2)."""
    tables = [name for name in tensors if name.endswith(".embeddings.word_embeddings.weight")]
    if not tables:
        raise InputError("the checkpoint has no text stack: no word_embeddings.weight")
    stack = max(tables).removesuffix("embeddings.word_embeddings.weight")
    layer = f"{re.escape(stack)}encoder\\.layer\\.(\\d+)\\."
    numbers = {int(m[1]) for name in tensors if (m := re.match(layer, name))}
    cross = {int(m[1]) for name in tensors if (m := re.match(f"{layer}crossattention\\.", name))}
    vocab_size, width = _shape(tensors, f"{stack}embeddings.word_embeddings.weight", 2)
    types = _shape(tensors, f"{stack}embeddings.token_type_embeddings.weight", 2)[0]
    roberta = types == 1  # RoBERTa has a single token type, BERT two
    layers = _count(numbers, "text layers")
    text_layers = min(cross, default=layers)
    return TextConfig(
        vocab_size=vocab_size,
        width=width,
        heads=_attention_heads(unseen.text_heads, width, "--text-heads", "the text stack"),
        mlp_width=_shape(tensors, f"{stack}encoder.layer.0.intermediate.dense.weight", 2)[0],
        text_layers=text_layers,
        cross_layers=(layers - text_layers) // (2 if doubled else 1),
        max_positions=_shape(tensors, f"{stack}embeddings.position_embeddings.weight", 2)[0],
        first_position=2 if roberta else 0,
        norm_eps=1e-5 if roberta else 1e-12,
        type_vocab_size=types,
    )


def _attention_heads(option_value: int | None, width: int, option: str, encoder: str) -> int:
    """Return the value of the option, or the published number for this width."""
    if option_value is None and width not in KNOWN_HEADS:
        known = " or ".join(map(str, KNOWN_HEADS))
        raise InputError(
            f"{encoder} is {width} wide (published: {known}): its number of attention heads leaves no trace "
            f"in the tensors; say it with {option}"
        )
    number = option_value or KNOWN_HEADS[width]
    if width % number:
        raise InputError(f"{option} is {number}; it has to divide the width of {encoder}, {width}")
    return number


def vision_config_of(tensors: Mapping[str, Tensor], unseen: UnseenSizes) -> VisionConfig:
    """Infer the published image encoder and its sizes."""
    if "vision_encoder.patch_embed.norm.weight" in tensors:
        return _swin_config(tensors, unseen)
    if "vision_encoder.class_embedding" in tensors:
        return _vit_config(tensors, unseen, "vit_base_patch16_clip_quickgelu_224", _CLIP)
    if "vision_encoder.cls_token" in tensors:
        return _vit_config(tensors, unseen, "deit_base_patch16_224", _DEIT)
    raise InputError("the checkpoint's vision encoder is none of the published ones: Swin, CLIP-ViT, DeiT")


def _swin_config(tensors: Mapping[str, Tensor], unseen: UnseenSizes) -> VisionConfig:
    """Infer depths, heads and windows from the tables of relative positions."""
    tables: dict[tuple[int, int], Tensor] = {}
    table = r"vision_encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table"
    for name, value in tensors.items():
        if match := re.fullmatch(table, name):
            tables[int(match[1]), int(match[2])] = value
            _shape(tensors, name, 2)
    stages = _count((stage for stage, _ in tables), "stages of the Swin")
    depths = [
        _count((block for stage, block in tables if stage == number), f"blocks of stage {number}")
        for number in range(stages)
    ]
    window = (square_side(tables[0, 0].shape[0]) + 1) // 2
    size = unseen.image_size or _swin_image_size(tensors, window, stages)
    if window > MAX_WINDOW or size > MAX_IMAGE:
        raise InputError(
            f"the checkpoint's Swin has windows of {window} patches and images of {size} pixels; at most "
            f"{MAX_WINDOW} and {MAX_IMAGE} are allowed"
        )
    stride = 4 * 2 ** (stages - 1)
    if size % stride:
        raise InputError(f"--image-size is {size}; this Swin needs a multiple of {stride}")
    options = {
        "embed_dim": _shape(tensors, "vision_encoder.patch_embed.proj.weight", 4)[0],
        "depths": depths,
        "num_heads": [tables[stage, 0].shape[1] for stage in range(stages)],
        "window_size": size
        // stride,  # a published window fills the last map: 7 at 224, 12 at 384, 15 at 480
        "img_size": size,
    }
    return VisionConfig("swin_base_patch4_window7_224", (size, size), options)


def _swin_image_size(tensors: Mapping[str, Tensor], window: int, stages: int) -> int:
    """Infer the side of the images in pixels.

    The mask of a shifted block has an entry for each window; without shifted blocks, a window fills the last
    map.
    """
    for stage in range(stages):
        name = f"vision_encoder.layers.{stage}.blocks.1.attn_mask"
        if name in tensors:
            windows, *inside = _shape(tensors, name, 3)
            if inside != [window**2] * 2:
                raise InputError(f"{name} is for windows of {inside} patches, its table for {window**2}")
            return square_side(windows) * window * 4 * 2**stage
    return int(window * 4 * 2 ** (stages - 1))


class _ViTNames(NamedTuple):
    patches: str
    positions: str
    position_axes: int
    block: str
    mlp: str


_CLIP = _ViTNames(
    "patch_embed.weight", "pos_embed.weight", 2, r"encoder\.layers", "encoder.layers.0.mlp.fc1.weight"
)
_DEIT = _ViTNames("patch_embed.proj.weight", "pos_embed", 3, "blocks", "blocks.0.mlp.fc1.weight")


def _vit_config(
    tensors: Mapping[str, Tensor], unseen: UnseenSizes, name: str, names: _ViTNames
) -> VisionConfig:
    """Infer width, depth, patch size and MLP from the tensors, heads from the width or the option."""
    own = {key.removeprefix("vision_encoder."): value for key, value in tensors.items()}
    width, _, patch, _ = _shape(own, names.patches, 4)
    grid = square_side(_shape(own, names.positions, names.position_axes)[-2] - 1)
    size = unseen.image_size or grid * patch
    if size % patch:
        raise InputError(f"--image-size is {size}; this ViT needs a multiple of its patches' {patch}")
    if unseen.local_depth is None and width not in KNOWN_HEADS:
        raise InputError(
            f"the ViT is {width} wide: how many of its blocks run again for each region leaves no trace "
            f"in the tensors; say it with --local-depth (published: {LOCAL_DEPTH})"
        )
    numbers = (int(m[1]) for key in own if (m := re.match(rf"{names.block}\.(\d+)\.", key)))
    options = {
        "embed_dim": width,
        "depth": _count(numbers, "blocks of the ViT"),
        "num_heads": _attention_heads(unseen.vision_heads, width, "--vision-heads", "the ViT"),
        "mlp_ratio": _shape(own, names.mlp, 2)[0] / width,
        "patch_size": patch,
    }
    return VisionConfig(name, (size, size), options, local_depth=unseen.local_depth or LOCAL_DEPTH)
