"""Keys of the published X-VLM's state dicts, and conversion in both directions.

One table serves both directions: each tensor of the model corresponds to one or more published ones, stacked
along the first axis (queries, keys and values are one matrix here).  The other published tensors are
constants and copies.  They are checked on reading and made again on writing, so that a checkpoint survives
the round trip unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.xvlm import XVLM, ModelConfig, find_head


class PublishedName(NamedTuple):
    """The published keys that correspond to one key of the model.

    Attributes:
        names: keys of tensors that are stacked along the first axis.
        flat: whether the published tensors lack the axes of length 1.
    """

    names: tuple[str, ...]
    flat: bool = False


class TextNames(NamedTuple):
    """Prefixes of a text stack (`text_encoder.bert.`) and of its language head."""

    stack: str
    head: str
    roberta: bool


HEADS = {
    "contrastive.vision": "vision_proj",
    "contrastive.text": "text_proj",
    "matching": "itm_head",
    "box": "bbox_head",
    "pair_classifier": "cls_head",
    "text_assignment.vision": "vision_proj",
    "text_assignment.classify": "ta_head",
}
EMBEDDINGS = {
    "token": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
    "norm": "LayerNorm",
}
LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "cross.q": ("crossattention.self.query",),
    "cross.kv": ("crossattention.self.key", "crossattention.self.value"),
    "cross.out": ("crossattention.output.dense",),
    "cross_norm": ("crossattention.output.LayerNorm",),
    "mlp.up": ("intermediate.dense",),
    "mlp.down": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}
LANGUAGE_HEAD = {  # by whether it is RoBERTa's
    False: {"transform": "transform.dense", "norm": "transform.LayerNorm"},
    True: {"transform": "dense", "norm": "layer_norm"},
}
CLIP = {
    "cls_token": ("class_embedding",),
    "pos_embed": ("pos_embed.weight",),
    "patch_embed.proj.weight": ("patch_embed.weight",),
    "norm_pre": ("pre_layrnorm",),
    "norm": ("post_layernorm",),
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_CONSTANTS = ("position_ids", "relative_position_index", "attn_mask", "decoder.weight", "decoder.bias")
"""Ends of the keys of constants and copies."""


def _is_clip(model: XVLM) -> bool:
    """Return whether the image encoder is CLIP's, for which the published code has other keys."""
    return isinstance(model.vision.model, VisionTransformer) and "clip" in model.config.vision.name


def _text_names(config: ModelConfig, part: str) -> TextNames:
    """Return the prefixes of the text stack of "text", "vqa_decoder" or "caption_decoder"."""
    roberta = config.text.first_position > 0
    tower = "text_encoder" if part == "text" else "text_decoder"
    inner = "roberta." if roberta else "bert."
    if part == "text" and "mlm" not in config.heads:
        inner = ""  # a published model without a language head has no wrapper
    head = f"{tower}.lm_head." if roberta else f"{tower}.cls.predictions."
    return TextNames(f"{tower}.{inner}", head, roberta)


def published_name(model: XVLM, name: str) -> PublishedName:
    """Return the published keys that correspond to a key of the model.

    Raises InputError if the published model has no such tensor.
    """
    config = model.config
    part, _, rest = name.partition(".")
    if part == "vision":
        return _vision(model, rest.removeprefix("model."))
    if name == "contrastive.temperature":
        return PublishedName(("temp",))
    if part in ("text", "fusion"):
        return _stack(_text_names(config, "text"), rest, config.text.text_layers if part == "fusion" else 0)
    if part == "mlm":
        return _language_head(_text_names(config, "text"), rest)
    if part in ("vqa_decoder", "caption_decoder"):
        names, (inner, _, rest) = _text_names(config, part), rest.partition(".")
        if inner == "head":
            return _language_head(names, rest)
        before = config.text.text_layers if part == "caption_decoder" and inner == "cross" else 0
        return _stack(names, rest, before)
    for ours, published in HEADS.items():
        if name.startswith(f"{ours}."):
            return PublishedName((f"{published}.{name.removeprefix(f'{ours}.')}",))
    raise InputError(f"the published model has nothing like {name}")


def _stack(names: TextNames, rest: str, before: int) -> PublishedName:
    """Return the key of a tensor in a text stack whose layer 0 is the published layer `before`."""
    if rest.startswith("embedding."):
        _, module, kind = rest.split(".")
        return PublishedName((f"{names.stack}embeddings.{EMBEDDINGS[module]}.{kind}",))
    match = re.fullmatch(r"layers\.(\d+)\.(.+)\.(\w+)", rest)
    if not match or match[2] not in LAYER:
        raise InputError(f"the published text stack has nothing like {rest}")
    number, module, kind = match.groups()
    layer = f"{names.stack}encoder.layer.{before + int(number)}"
    return PublishedName(tuple(f"{layer}.{published}.{kind}" for published in LAYER[module]))


def _language_head(names: TextNames, rest: str) -> PublishedName:
    if rest == "bias":
        return PublishedName((f"{names.head}bias",))
    module, kind = rest.split(".")
    return PublishedName((f"{names.head}{LANGUAGE_HEAD[names.roberta][module]}.{kind}",))


def _vision(model: XVLM, rest: str) -> PublishedName:
    if isinstance(model.vision.model, SwinTransformer):
        # timm merges patches before a stage, the published code after the stage before it.
        match = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", rest)
        if match:
            rest = f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
        return PublishedName((f"vision_encoder.{rest}",))
    if not isinstance(model.vision.model, VisionTransformer):
        raise InputError(
            f"the published model has no {model.config.vision.name}; "
            "its vision encoders are Swin, CLIP-ViT, DeiT"
        )
    if not _is_clip(model):
        return PublishedName((f"vision_encoder.{rest}",))
    if rest in CLIP:
        return PublishedName((f"vision_encoder.{CLIP[rest][0]}",), flat=rest in ("cls_token", "pos_embed"))
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", rest)
    if not match or match[2] not in CLIP:
        raise InputError(f"the published CLIP-ViT has nothing like {rest}")
    prefix = "vision_encoder." if match[1] is None else f"vision_encoder.encoder.layers.{match[1]}."
    return PublishedName(tuple(f"{prefix}{module}.{match[3]}" for module in CLIP[match[2]]))


def _constants(model: XVLM, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, str]]:
    """Yield key, value and reason of each published tensor that the model does not need.

    Args:
        tensors: published state dict, from which copies are made.
    """
    config = model.config
    stacks = [part for part in ("text", "vqa_decoder", "caption_decoder") if hasattr(model, part)]
    for part in stacks:
        names = _text_names(config, part)
        yield (
            f"{names.stack}embeddings.position_ids",
            torch.arange(config.text.max_positions)[None],
            "a constant",
        )
        if part != "text" or hasattr(model, "mlm"):
            token_VD = tensors[f"{names.stack}embeddings.word_embeddings.weight"]
            yield f"{names.head}decoder.weight", token_VD, "tied to the token embeddings"
            yield f"{names.head}decoder.bias", tensors[f"{names.head}bias"], "the same as its head's bias"
    if any(find_head(name).encoder == "pair" for name in config.heads):
        layer = f"{_text_names(config, 'text').stack}encoder.layer."
        for number in range(config.text.cross_layers):
            first = config.text.text_layers + 2 * number
            for module in LAYER["cross.kv"]:
                for kind in ("weight", "bias"):
                    value = tensors[f"{layer}{first}.{module}.{kind}"]
                    yield f"{layer}{first + 1}.{module}.{kind}", value, "shared with the layer before it"
    backbone = model.vision.model
    if isinstance(backbone, SwinTransformer):
        for name, value in backbone.named_buffers():
            if name.endswith(("relative_position_index", "attn_mask")):
                yield f"vision_encoder.{name}", value, "a constant"
    elif _is_clip(model):
        count = tensors["vision_encoder.pos_embed.weight"].shape[0]
        yield "vision_encoder.position_ids", torch.arange(count)[None], "a constant"


def to_published(model: XVLM) -> dict[str, Tensor]:
    """Return the model's state dict as the published code would save it.

    Raises InputError if the published model has no such parts.
    """
    if model.config.text.pooling != "first" or (hasattr(model, "box") and model.config.box_head != "mlp"):
        raise InputError(
            "the published model cannot hold this one: "
            f"its texts are pooled by {model.config.text.pooling!r} (published: 'first'), "
            f"its box head is {model.config.box_head!r} (published: 'mlp')"
        )
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        names, flat = published_name(model, name)
        pieces = value.chunk(len(names)) if len(names) > 1 else (value,)
        for published, piece in zip(names, pieces, strict=True):
            tensors[published] = (piece.squeeze() if flat else piece).clone()
    copies = [(name, value.clone()) for name, value, _ in _constants(model, tensors)]
    return tensors | dict(copies)


class ConvertedTensors(NamedTuple):
    """A published state dict after conversion.

    Attributes:
        tensors: the state dict of the model.
        unused: published keys that the model does not need, with the reasons.
    """

    tensors: dict[str, Tensor]
    unused: dict[str, str]


def from_published(
    model: XVLM, tensors: Mapping[str, Tensor], origin: str = "the checkpoint"
) -> ConvertedTensors:
    """Convert a published state dict into one for `model`, which stays unchanged.

    Raises InputError naming a tensor that is missing, unknown or of another shape, or that should be a copy
    of another one and is not.
    """
    own = model.state_dict()
    sources = {name: published_name(model, name) for name in own}
    known = {name for source in sources.values() for name in source.names}
    missing = [name for source in sources.values() for name in source.names if name not in tensors]
    if missing:
        others = [name for name in tensors if name not in known and not name.endswith(_CONSTANTS)]
        hint = f"; it has {', '.join(others[:3])} instead" if others else ""
        raise InputError(f"{origin} lacks {_shorten(missing)}{hint}")
    converted: dict[str, Tensor] = {}
    for name, (names, flat) in sources.items():
        shape = own[name].squeeze().shape if flat else own[name].shape
        piece_shape = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else tuple(shape)
        for published in names:
            if tuple(tensors[published].shape) != piece_shape:
                raise InputError(
                    f"{origin}: {published} is {tuple(tensors[published].shape)}; it should be {piece_shape}"
                )
        value = torch.cat([tensors[one] for one in names]) if len(names) > 1 else tensors[names[0]]
        converted[name] = value.reshape(own[name].shape)
    unused: dict[str, str] = {}
    for name, value, reason in _constants(model, tensors):
        if name not in tensors:
            continue  # newer libraries, and safetensors, leave out what can be made again
        if not torch.equal(tensors[name], value.to(tensors[name].dtype)):
            raise InputError(f"{origin}: {name} should be {reason}, but has other values")
        unused[name] = reason
    unknown = [name for name in tensors if name not in known and name not in unused]
    if unknown:
        raise InputError(f"{origin} has tensors that this model lacks: {_shorten(unknown)}")
    return ConvertedTensors(converted, unused)


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
