"""Sizes of a published checkpoint: read from its tensors; the few that leave no trace there are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from xvlm.errors import InputError
from xvlm.model.resize import side
from xvlm.model.text import TextConfig
from xvlm.model.vision import VisionConfig
from xvlm.model.xvlm import ModelConfig, Part

KNOWN_HEADS = {768: 12, 1024: 16}
"""Attention heads of the published towers, by their width: base and large."""
LOCAL_DEPTH = 4
LARGEST_WINDOW, LARGEST_IMAGE = 64, 4096
"""Of a Swin, in patches and pixels: tables that are made for larger ones fill the memory."""


@dataclass(frozen=True)
class Unseen:
    """Sizes that tensors do not show; `None` takes the published value where there is one for such a width.

    Attributes:
        text_heads, vision_heads: attention heads of the text stack and of a ViT (a Swin's are seen).
        local_depth: of a ViT: blocks that run again for each region.
        image_size: side of the images; read from the positions where it is not given.  Positions for another
            size are resized.
    """

    text_heads: int | None = None
    vision_heads: int | None = None
    local_depth: int | None = None
    image_size: int | None = None


def config_of(tensors: Mapping[str, Tensor], unseen: Unseen) -> ModelConfig:
    """What model a published checkpoint is of.

    Raises InputError if it is none, or naming the option for a size that cannot be read.
    """
    for option, number in vars(unseen).items():
        if number is not None and number < 1:
            raise InputError(f"--{option.replace('_', '-')} is {number}; it must be 1 or more")
    parts = parts_of(tensors)
    embeds = "vision_proj.weight" in tensors
    return ModelConfig(
        vision=vision_of(tensors, unseen),
        text=text_of(tensors, unseen, doubled=bool({"pairs", "assignment"} & set(parts))),
        embed_dim=shape_of(tensors, "vision_proj.weight", 2)[0] if embeds else 256,
        parts=parts,
    )


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor (...) that has so many axes.  Raises InputError if there is none such."""
    if name not in tensors:
        raise InputError(f"the checkpoint lacks {name}")
    found = tuple(tensors[name].shape)
    if len(found) != axes or 0 in found:
        raise InputError(
            f"the checkpoint's {name} is {found}; it should have {axes} axes, none of them empty"
        )
    return found


def counted(numbers: Iterable[int], what: str) -> int:
    """How many layers there are.  Raises InputError where one is missing."""
    found = sorted(set(numbers))
    if not found or found != list(range(len(found))):
        last = found[-1] if found else "none"
        raise InputError(f"the checkpoint's {what} are incomplete: {len(found)} of them, the last is {last}")
    return len(found)


def parts_of(names: Iterable[str]) -> tuple[Part, ...]:
    """Which heads a checkpoint has, and hence of which kind it is."""
    names = set(names)
    reads = any(name.startswith("text_encoder.") for name in names)
    writes = any(name.startswith("text_decoder.") for name in names)
    language = {"text_encoder.cls.predictions.bias", "text_encoder.lm_head.bias"}
    found: list[tuple[Part, bool]] = [
        ("contrastive", "text_proj.weight" in names),
        ("matching", "itm_head.0.weight" in names),
        ("box", "bbox_head.0.weight" in names),
        ("masked", bool(language & names)),
        ("pairs", "cls_head.0.weight" in names),
        ("assignment", "ta_head.weight" in names),
        ("answers", reads and writes),
        ("captions", writes and not reads),
    ]
    parts = tuple(part for part, there in found if there)
    if not parts:
        raise InputError(
            "this is no checkpoint of the published X-VLM: it has none of its heads (text_proj, itm_head, "
            "bbox_head, cls_head, ta_head) and no text_decoder"
        )
    return parts


def text_of(tensors: Mapping[str, Tensor], unseen: Unseen, doubled: bool) -> TextConfig:
    """Sizes of the text stack; `doubled`: each cross-modal layer stands twice (NLVR2)."""
    found = [name for name in tensors if name.endswith(".embeddings.word_embeddings.weight")]
    if not found:
        raise InputError("the checkpoint has no text stack: no word_embeddings.weight")
    stack = sorted(found, reverse=True)[0].removesuffix("embeddings.word_embeddings.weight")
    layers = f"{re.escape(stack)}encoder\\.layer\\.(\\d+)\\."
    numbers = {int(m[1]) for name in tensors if (m := re.match(layers, name))}
    looking = {int(m[1]) for name in tensors if (m := re.match(f"{layers}crossattention\\.", name))}
    vocab_size, width = shape_of(tensors, f"{stack}embeddings.word_embeddings.weight", 2)
    types = shape_of(tensors, f"{stack}embeddings.token_type_embeddings.weight", 2)[0]
    roberta = types == 1  # RoBERTa has a single token type, BERT two
    layers_found = counted(numbers, "text layers")
    text_layers = min(looking, default=layers_found)
    return TextConfig(
        vocab_size=vocab_size,
        width=width,
        heads=heads(unseen.text_heads, width, "--text-heads", "the text stack"),
        mlp_width=shape_of(tensors, f"{stack}encoder.layer.0.intermediate.dense.weight", 2)[0],
        text_layers=text_layers,
        cross_layers=(layers_found - text_layers) // (2 if doubled else 1),
        max_positions=shape_of(tensors, f"{stack}embeddings.position_embeddings.weight", 2)[0],
        first_position=2 if roberta else 0,
        norm_eps=1e-5 if roberta else 1e-12,
        type_vocab_size=types,
    )


def heads(given: int | None, width: int, option: str, tower: str) -> int:
    """The number that is given, or the published one.  Raises InputError naming the option."""
    if given is None and width not in KNOWN_HEADS:
        known = " or ".join(map(str, KNOWN_HEADS))
        raise InputError(
            f"{tower} is {width} wide (published: {known}): its number of attention heads leaves no trace in "
            f"the tensors; say it with {option}"
        )
    number = given or KNOWN_HEADS[width]
    if width % number:
        raise InputError(f"{option} is {number}; it has to divide the width of {tower}, {width}")
    return number


def vision_of(tensors: Mapping[str, Tensor], unseen: Unseen) -> VisionConfig:
    """Which of the published vision encoders, and its sizes."""
    if "vision_encoder.patch_embed.norm.weight" in tensors:
        return swin_of(tensors, unseen)
    if "vision_encoder.class_embedding" in tensors:
        return vit_of(tensors, unseen, "vit_base_patch16_clip_quickgelu_224", _CLIP)
    if "vision_encoder.cls_token" in tensors:
        return vit_of(tensors, unseen, "deit_base_patch16_224", _DEIT)
    raise InputError("the checkpoint's vision encoder is none of the published ones: Swin, CLIP-ViT, DeiT")


def swin_of(tensors: Mapping[str, Tensor], unseen: Unseen) -> VisionConfig:
    """Depths, heads and window from the tables of relative positions; the image from the shifted windows."""
    tables: dict[tuple[int, int], Tensor] = {}
    for name, value in tensors.items():
        found = re.fullmatch(
            r"vision_encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table", name
        )
        if found:
            tables[int(found[1]), int(found[2])] = value
            shape_of(tensors, name, 2)
    stages = counted((stage for stage, _ in tables), "stages of the Swin")
    depths = [
        counted((block for stage, block in tables if stage == number), f"blocks of stage {number}")
        for number in range(stages)
    ]
    window = (side(tables[0, 0].shape[0]) + 1) // 2
    size = unseen.image_size or swin_image(tensors, window, stages)
    if window > LARGEST_WINDOW or size > LARGEST_IMAGE:
        raise InputError(
            f"the checkpoint's Swin has windows of {window} patches and images of {size} pixels; at most "
            f"{LARGEST_WINDOW} and {LARGEST_IMAGE} are allowed"
        )
    stride = 4 * 2 ** (stages - 1)
    if size % stride:
        raise InputError(f"--image-size is {size}; this Swin needs a multiple of {stride}")
    # The published windows fill the last map: 7 at 224, 12 at 384, 15 at 480.
    options = {
        "embed_dim": shape_of(tensors, "vision_encoder.patch_embed.proj.weight", 4)[0],
        "depths": depths,
        "num_heads": [tables[stage, 0].shape[1] for stage in range(stages)],
        "window_size": size // stride,
        "img_size": size,
    }
    return VisionConfig("swin_base_patch4_window7_224", (size, size), options)


def swin_image(tensors: Mapping[str, Tensor], window: int, stages: int) -> int:
    """Side of the images: a shifted block's mask has one entry a window; without one a window fills the last
    map."""
    for stage in range(stages):
        name = f"vision_encoder.layers.{stage}.blocks.1.attn_mask"
        if name in tensors:
            windows, *inside = shape_of(tensors, name, 3)
            if inside != [window**2] * 2:
                raise InputError(f"{name} is for windows of {inside} patches, its table for {window**2}")
            return side(windows) * window * 4 * 2**stage
    return int(window * 4 * 2 ** (stages - 1))


@dataclass(frozen=True)
class _ViTNames:
    patches: str
    positions: str
    block: str
    inner: str
    position_axes: int


_CLIP = _ViTNames(
    "patch_embed.weight", "pos_embed.weight", r"encoder\.layers", "encoder.layers.0.mlp.fc1.weight", 2
)
_DEIT = _ViTNames("patch_embed.proj.weight", "pos_embed", "blocks", "blocks.0.mlp.fc1.weight", 3)


def vit_of(tensors: Mapping[str, Tensor], unseen: Unseen, name: str, names: _ViTNames) -> VisionConfig:
    """Width, depth, patch and MLP from the tensors; heads from the width or the option."""
    own = {key.removeprefix("vision_encoder."): value for key, value in tensors.items()}
    width, _, patch, _ = shape_of(own, names.patches, 4)
    grid = side(shape_of(own, names.positions, names.position_axes)[-2] - 1)
    size = unseen.image_size or grid * patch
    if size % patch:
        raise InputError(f"--image-size is {size}; this ViT needs a multiple of its patches' {patch}")
    if unseen.local_depth is None and width not in KNOWN_HEADS:
        raise InputError(
            f"the ViT is {width} wide: how many of its blocks run again for each region leaves no trace "
            f"in the tensors; say it with --local-depth (published: {LOCAL_DEPTH})"
        )
    options = {
        "embed_dim": width,
        "depth": counted(
            (int(m[1]) for key in own if (m := re.match(rf"{names.block}\.(\d+)\.", key))),
            "blocks of the ViT",
        ),
        "num_heads": heads(unseen.vision_heads, width, "--vision-heads", "the ViT"),
        "mlp_ratio": shape_of(own, names.inner, 2)[0] / width,
        "patch_size": patch,
    }
    return VisionConfig(name, (size, size), options, local_depth=unseen.local_depth or LOCAL_DEPTH)
