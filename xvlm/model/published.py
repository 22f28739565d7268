"""Names of tensors in the published X-VLM's checkpoints, and what they are here.

One table serves both directions: every tensor of ours is made of one or more of theirs, stacked along the
first axis (queries, keys and values are one matrix here).  What they keep besides are constants and copies,
which are checked on the way in and made again on the way out, so that a checkpoint goes round unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from xvlm.errors import InputError
from xvlm.model.xvlm import ABOUT_PAIRS, XVLM, ModelConfig


class Theirs(NamedTuple):
    """The published tensors that one of ours is made of.

    Attributes:
        names: stacked along the first axis.
        flat: theirs have no axes of length 1.
    """

    names: tuple[str, ...]
    flat: bool = False


@dataclass(frozen=True)
class TextNames:
    """Where a text stack stands in a checkpoint: `text_encoder.bert.` and the like, and its language head."""

    stack: str
    head: str
    roberta: bool


HEADS = {
    "contrastive.vision": "vision_proj",
    "contrastive.text": "text_proj",
    "matching": "itm_head",
    "box": "bbox_head",
    "pairs": "cls_head",
    "assignment.vision": "vision_proj",
    "assignment.classify": "ta_head",
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
LANGUAGE_HEAD = {
    False: {"transform": "transform.dense", "norm": "transform.LayerNorm"},
    True: {"transform": "dense", "norm": "layer_norm"},
}
CLIP = {
    "cls_token": "class_embedding",
    "pos_embed": "pos_embed.weight",
    "patch_embed.proj.weight": "patch_embed.weight",
    "norm_pre": "pre_layrnorm",
    "norm": "post_layernorm",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def is_clip(model: XVLM) -> bool:
    """Whether the vision encoder is CLIP's, which the published code names in its own way."""
    return isinstance(model.vision.model, VisionTransformer) and "clip" in model.config.vision.name


def text_names(config: ModelConfig, part: str) -> TextNames:
    """Names of the text stack of "text", "answers" or "captions"."""
    roberta = config.text.first_position > 0
    tower = "text_encoder" if part == "text" else "text_decoder"
    inner = "roberta." if roberta else "bert."
    if part == "text" and "masked" not in config.parts:
        inner = ""  # a model without a language head is saved without its wrapper
    head = f"{tower}.lm_head." if roberta else f"{tower}.cls.predictions."
    return TextNames(f"{tower}.{inner}", head, roberta)


def theirs(model: XVLM, name: str) -> Theirs:
    """What the published checkpoints call a tensor of ours.

    Raises InputError for a tensor that the published model has not.
    """
    config = model.config
    part, _, rest = name.partition(".")
    if part == "vision":
        return _vision(model, rest.removeprefix("model."))
    if name == "contrastive.temperature":
        return Theirs(("temp",))
    if part in ("text", "fusion"):
        return _stack(text_names(config, "text"), rest, config.text.text_layers if part == "fusion" else 0)
    if part == "masked":
        return _language_head(text_names(config, "text"), rest)
    if part in ("answers", "captions"):
        names, (inner, _, rest) = text_names(config, part), rest.partition(".")
        if inner == "head":
            return _language_head(names, rest)
        before = config.text.text_layers if part == "captions" and inner == "cross" else 0
        return _stack(names, rest, before)
    for ours, their in HEADS.items():
        if name.startswith(f"{ours}."):
            return Theirs((f"{their}.{name.removeprefix(f'{ours}.')}",))
    raise InputError(f"the published model has nothing like {name}")


def _stack(names: TextNames, rest: str, before: int) -> Theirs:
    """A tensor of a text stack whose layer 0 is the checkpoint's layer `before`."""
    if rest.startswith("embedding."):
        _, module, kind = rest.split(".")
        return Theirs((f"{names.stack}embeddings.{EMBEDDINGS[module]}.{kind}",))
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(\w+)", rest)
    if not found or found[2] not in LAYER:
        raise InputError(f"the published text stack has nothing like {rest}")
    number, module, kind = found.groups()
    layer = f"{names.stack}encoder.layer.{before + int(number)}"
    return Theirs(tuple(f"{layer}.{their}.{kind}" for their in LAYER[module]))


def _language_head(names: TextNames, rest: str) -> Theirs:
    if rest == "bias":
        return Theirs((f"{names.head}bias",))
    module, kind = rest.split(".")
    return Theirs((f"{names.head}{LANGUAGE_HEAD[names.roberta][module]}.{kind}",))


def _vision(model: XVLM, rest: str) -> Theirs:
    if isinstance(model.vision.model, SwinTransformer):
        # timm puts the merging of patches before a stage, the published code after the one before it.
        found = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", rest)
        if found:
            rest = f"layers.{int(found[1]) - 1}.downsample.{found[2]}"
        return Theirs((f"vision_encoder.{rest}",))
    if not isinstance(model.vision.model, VisionTransformer):
        raise InputError(
            f"the published model has no {model.config.vision.name}; "
            "its vision encoders are Swin, CLIP-ViT, DeiT"
        )
    if not is_clip(model):
        return Theirs((f"vision_encoder.{rest}",))
    if rest in CLIP:
        return Theirs((f"vision_encoder.{CLIP[rest]}",), flat=rest in ("cls_token", "pos_embed"))
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", rest)
    if not found or found[2] not in CLIP:
        raise InputError(f"the published CLIP-ViT has nothing like {rest}")
    prefix = "" if found[1] is None else f"encoder.layers.{found[1]}."
    modules = CLIP[found[2]]
    return Theirs(
        tuple(
            f"vision_encoder.{prefix}{module}.{found[3]}"
            for module in ((modules,) if isinstance(modules, str) else modules)
        )
    )


def constants(model: XVLM, given: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, str]]:
    """What published checkpoints hold besides: (name, value of any shape (...), why it is not needed).

    Args:
        given: published tensors by name, from which copies are made.
    """
    config = model.config
    stacks = [part for part in ("text", "answers", "captions") if hasattr(model, part)]
    for part in stacks:
        names = text_names(config, part)
        position_1P = torch.arange(config.text.max_positions)[None]
        yield f"{names.stack}embeddings.position_ids", position_1P, "a constant"
        if part != "text" or hasattr(model, "masked"):
            token_VD = given[f"{names.stack}embeddings.word_embeddings.weight"]
            yield f"{names.head}decoder.weight", token_VD, "tied to the token embeddings"
            yield f"{names.head}decoder.bias", given[f"{names.head}bias"], "the same as its head's bias"
    if set(config.parts) & set(ABOUT_PAIRS):
        layer = f"{text_names(config, 'text').stack}encoder.layer."
        for number in range(config.text.cross_layers):
            first = config.text.text_layers + 2 * number
            for module in LAYER["cross.kv"]:
                for kind in ("weight", "bias"):
                    value = given[f"{layer}{first}.{module}.{kind}"]
                    yield f"{layer}{first + 1}.{module}.{kind}", value, "shared with the layer before it"
    tower = model.vision.model
    if isinstance(tower, SwinTransformer):
        for name, value in tower.named_buffers():
            if name.endswith(("relative_position_index", "attn_mask")):
                yield f"vision_encoder.{name}", value, "a constant"
    elif is_clip(model):
        count = given["vision_encoder.pos_embed.weight"].shape[0]
        yield "vision_encoder.position_ids", torch.arange(count)[None], "a constant"


def to_published(model: XVLM) -> dict[str, Tensor]:
    """The model's tensors as the published code would save them.

    Raises InputError if the published model has no such parts.
    """
    if model.config.text.pooling != "first" or (hasattr(model, "box") and model.config.box_head != "mlp"):
        raise InputError(
            "the published model cannot hold this one: "
            f"its texts are pooled by {model.config.text.pooling!r} (published: 'first'), "
            f"its box head is {model.config.box_head!r} (published: 'mlp')"
        )
    given: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        names, flat = theirs(model, name)
        pieces = value.chunk(len(names)) if len(names) > 1 else (value,)
        for their, part in zip(names, pieces, strict=True):
            given[their] = (part.squeeze() if flat else part).clone()
    copies = [(name, value.clone()) for name, value, _ in constants(model, given)]
    return given | dict(copies)


class Taken(NamedTuple):
    """What was taken from a published checkpoint.

    Attributes:
        given: our tensors.
        unused: their tensors that are not needed -> why.
    """

    given: dict[str, Tensor]
    unused: dict[str, str]


def from_published(model: XVLM, tensors: Mapping[str, Tensor], origin: str = "the checkpoint") -> Taken:
    """Our tensors made from a published checkpoint's; the model itself is not changed.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or no copy of what it should be a copy
            of; the message names it.
    """
    own = model.state_dict()
    sources = {name: theirs(model, name) for name in own}
    missing = [their for source in sources.values() for their in source.names if their not in tensors]
    if missing:
        raise InputError(f"{origin} lacks {', '.join(missing[:5])}{_more(missing)}{_left(model, tensors)}")
    given: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, (names, flat) in sources.items():
        shape = own[name].squeeze().shape if flat else own[name].shape
        part_shape = (shape[0] // len(names), *shape[1:]) if len(names) > 1 else tuple(shape)
        for their in names:
            if tuple(tensors[their].shape) != part_shape:
                raise InputError(
                    f"{origin}: {their} is {tuple(tensors[their].shape)}; it should be {part_shape}"
                )
        value = torch.cat([tensors[their] for their in names]) if len(names) > 1 else tensors[names[0]]
        given[name] = value.reshape(own[name].shape)
        used.update(names)
    unused: dict[str, str] = {}
    for name, value, why in constants(model, tensors):
        if name not in tensors:
            continue  # newer libraries, and safetensors, leave out what can be made
        if not torch.equal(tensors[name], value.to(tensors[name].dtype)):
            raise InputError(f"{origin}: {name} should be {why}, but has other values")
        unused[name] = why
    unknown = [name for name in tensors if name not in used and name not in unused]
    if unknown:
        raise InputError(
            f"{origin} has tensors that this model has no place for: {', '.join(unknown[:5])}{_more(unknown)}"
        )
    return Taken(given, unused)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""


def _left(model: XVLM, tensors: Mapping[str, Tensor]) -> str:
    """What a checkpoint has instead of what it lacks: the likely misspelling."""
    known = {their for name in model.state_dict() for their in theirs(model, name).names}
    unknown = [name for name in tensors if name not in known and not name.endswith(_CONSTANT)]
    return f"; it has {', '.join(unknown[:3])} instead" if unknown else ""


_CONSTANT = ("position_ids", "relative_position_index", "attn_mask", "decoder.weight", "decoder.bias")
