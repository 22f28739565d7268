"""Initial weights: BERT or RoBERTa for the text stack, state dicts in another layout for the image encoder.

Loading is strict: every tensor of a checkpoint is used or listed with the reason why not.  Parameters that a
checkpoint lacks are initialized randomly and have a higher learning rate (`xvlm/training/optimizer.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.models.checkpoints.published_names import EMBEDDINGS, LANGUAGE_HEAD, LAYER
from xvlm.models.checkpoints.weight_files import find_tensor_file, read_tensors
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import XVLM


def bert_config(
    folder: Path, text_layers: int, cross_layers: int, pooling: Literal["first", "mean"] = "first"
) -> TextConfig:
    """Read the sizes of a text stack from the folder of a BERT or RoBERTa.

    Args:
        text_layers, cross_layers: how the layers are divided.
    Raises:
        InputError: it is another kind of model, has fewer layers, or its `config.json` lacks a number.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ("bert", "roberta"):
        raise InputError(f"{folder} holds a {kind}; the text stack takes bert or roberta")
    layers = _number(config, "num_hidden_layers", folder)
    if text_layers > layers:
        raise InputError(f"text_layers is {text_layers}; {folder} has {layers} layers")
    return TextConfig(
        vocab_size=_number(config, "vocab_size", folder),
        width=_number(config, "hidden_size", folder),
        heads=_number(config, "num_attention_heads", folder),
        mlp_width=_number(config, "intermediate_size", folder),
        text_layers=text_layers,
        cross_layers=cross_layers,
        max_positions=_number(config, "max_position_embeddings", folder),
        first_position=_number(config, "pad_token_id", folder) + 1 if kind == "roberta" else 0,
        norm_eps=_number(config, "layer_norm_eps", folder),
        dropout=_number(config, "hidden_dropout_prob", folder),
        type_vocab_size=_number(config, "type_vocab_size", folder),
        pooling=pooling,
    )


def _number(config: Mapping[str, Any], name: str, folder: Path) -> Any:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{folder / 'config.json'}: {name} is {value!r:.40}; it must be a number")
    return value


_HEADS = {"cls.predictions.": LANGUAGE_HEAD[False], "lm_head.": LANGUAGE_HEAD[True]}
_KEYS = {
    **{f"embeddings.{bert}.weight": f"text.embedding.{ours}.weight" for ours, bert in EMBEDDINGS.items()},
    "embeddings.LayerNorm.bias": "text.embedding.norm.bias",
    **{
        f"{head}{bert}.{kind}": f"mlm.{ours}.{kind}"
        for head, modules in _HEADS.items()
        for ours, bert in modules.items()
        for kind in ("weight", "bias")
    },
    **{f"{head}bias": "mlm.bias" for head in _HEADS},
}
"""BERT's keys outside its layers -> the keys of the model."""
_QKV = LAYER["attention.qkv"]
_MODULES = {names[0]: ours for ours, names in LAYER.items() if names != _QKV and not ours.startswith("cross")}
"""Modules of a BERT layer, except queries, keys and values -> modules of the model's layer."""
_NOT_NEEDED = {
    "embeddings.position_ids": "a constant",
    "pooler.": "the contrastive head reads states directly",
    "cls.seq_relationship.": "no next-sentence loss",
    "cls.predictions.decoder.": "tied to the token embeddings",
    "lm_head.decoder.": "tied to the token embeddings",
}
"""Prefixes of BERT's keys that have no counterpart -> the reason."""


def load_bert(model: XVLM, folder: Path, evenly_spaced: bool = False) -> tuple[set[str], dict[str, str]]:
    """Load a BERT or RoBERTa into the text stack.

    Its first layers go into the text encoder, the next into the cross-modal encoder.

    Args:
        evenly_spaced: whether the layers of the cross-modal encoder are evenly spaced up to the last one
            (published for X-VLM-large: of 24 layers the first 12, then every other one).
    Returns:
        the names of the parameters that were loaded, and the unused keys of the checkpoint with the reasons.
    Raises:
        InputError: a tensor is unknown, missing, or of another shape; the message names it.
    """
    tensors = {_current_key(name): value for name, value in read_tensors(folder).items()}
    depth = _number(read_json(folder / "config.json"), "num_hidden_layers", folder)
    layers = _assign_layers(depth, len(model.text.layers), len(model.fusion.layers), evenly_spaced)
    loaded: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        reason = next((why for start, why in _NOT_NEEDED.items() if name.startswith(start)), None)
        key = _KEYS.get(name, "")
        if key.startswith("mlm.") and not hasattr(model, "mlm"):
            unused[name] = "this model predicts no masked tokens"
        elif key:
            loaded[key] = value
        elif reason:
            unused[name] = reason
        elif name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            module, _, kind = rest.rpartition(".")
            if int(number) not in layers:
                unused[name] = f"this model has {len(layers)} layers"
                continue
            layer = layers[int(number)]
            if module in _MODULES:
                loaded[f"{layer}.{_MODULES[module]}.{kind}"] = value
            elif module in _QKV:
                qkv.setdefault(f"{layer}.attention.qkv.{kind}", {})[module] = value
            else:
                raise InputError(f"{folder}: unknown tensor {name}")
        else:
            raise InputError(f"{folder}: unknown tensor {name}")
    for key, parts in qkv.items():
        if len(parts) == len(_QKV):
            loaded[key] = torch.cat([parts[module] for module in _QKV])
    missing = [key for key in _required_keys(model, layers.values()) if key not in loaded]
    if missing:
        raise InputError(f"{folder} lacks tensors: nothing (or only a part) for {', '.join(missing[:5])}")
    load_tensors(model, loaded, str(folder))
    return set(loaded), unused


def _current_key(name: str) -> str:
    """Remove the model's prefix, and rename LayerNorm's gamma and beta of `bert-base-uncased`."""
    name = name.removeprefix("bert.").removeprefix("roberta.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _required_keys(model: XVLM, layers: Iterable[str]) -> list[str]:
    """Return what a BERT must provide: the embeddings, and all of these layers except cross-attention."""
    starts = ("text.embedding.", *(f"{layer}." for layer in layers))
    return [name for name in model.state_dict() if ".cross" not in name and name.startswith(starts)]


def _assign_layers(depth: int, text_layers: int, cross_layers: int, evenly_spaced: bool) -> dict[int, str]:
    """Return the layer of the model that each of a BERT's `depth` layers becomes; the others are left out."""
    assigned = {number: f"text.layers.{number}" for number in range(min(depth, text_layers))}
    step = max(1, (depth - text_layers) // cross_layers) if evenly_spaced and cross_layers else 1
    for number in range(cross_layers):
        source = text_layers + (number + 1) * step - 1
        if source < depth:
            assigned[source] = f"fusion.layers.{number}"
    return assigned


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a model by name; a model that they do not fit stays unchanged.

    Raises InputError naming a tensor that is unknown or has another shape.
    """
    own = model.state_dict()
    for name, value in tensors.items():
        if name not in own:
            raise InputError(f"{origin}: the model has no {name}")
        if own[name].shape != value.shape:
            raise InputError(
                f"{origin}: {name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
            )
    for name, value in tensors.items():
        own[name].copy_(value)


def load_vision_by_order(model: nn.Module, path: Path) -> None:
    """Load a state dict into a timm model that has the same tensors in the same order under other names.

    Some packages ship encoders under names of their own (EfficientNet-Lite0).  A classifier at the end is
    left out.

    Raises InputError at the first tensor whose shape differs, if there are too few, and for safetensors,
    which keep no order.
    """
    path = find_tensor_file(path)
    if path.suffix == ".safetensors":
        raise InputError(f"{path} keeps no order of its tensors; a PyTorch file is needed")
    tensors = read_tensors(path)
    own = model.state_dict()
    left = list(tensors)[len(own) :]
    if len(tensors) < len(own) or any("fc" not in name and "classifier" not in name for name in left):
        raise InputError(
            f"{path}: {len(tensors)} tensors for {len(own)}; left over: {', '.join(left[:5]) or 'none'}"
        )
    for name, source in zip(own, tensors, strict=False):
        if tensors[source].shape != own[name].shape:
            raise InputError(
                f"{path}: {source} is {tuple(tensors[source].shape)}, {name} is {tuple(own[name].shape)}"
            )
    load_tensors(model, dict(zip(own, tensors.values(), strict=False)), str(path))
