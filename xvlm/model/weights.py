"""Initial weights from elsewhere: BERT and RoBERTa for the text stack, state dicts for vision.

Strict: every tensor of a checkpoint is used or named with the reason why it is not; whatever a
checkpoint does not give is new, and learns at a higher rate (`train/optim.py`).
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from xvlm.errors import InputError, MissingFileError
from xvlm.jsonfile import read_json
from xvlm.model.published import EMBEDDINGS, LANGUAGE_HEAD, LAYER
from xvlm.model.text import TextConfig
from xvlm.model.xvlm import XVLM

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


KNOWN_BERTS = (
    *(
        f"{owner}{name}"
        for owner in ("", "google-bert/")
        for name in ("bert-base-uncased", "bert-large-uncased")
    ),
    *(f"{owner}{name}" for owner in ("", "FacebookAI/") for name in ("roberta-base", "roberta-large")),
)
"""Hub ids that a checkpoint's own configuration may name."""


def find_weights(spec: str, trusted: bool = True) -> Path:
    """A folder or file: a path, `python:PACKAGE` (weights that an installed package ships), or a hub id.

    Nothing of a package is imported or run to find it.

    Args:
        trusted: a person typed it, or a recipe says so.  What a file says may only be one of `KNOWN_BERTS`,
            or a folder below the working folder.
    Raises:
        MissingFileError: it is none of these.
        InputError: it is not trusted, and more than a file may name.
    """
    if not trusted and not _may_be_named_by_a_file(spec):
        raise InputError(
            f"a file names {spec[:200]!r}; files may only name {', '.join(KNOWN_BERTS)} or a folder below "
            "this one.  If you trust it, type the name yourself"
        )
    if spec.startswith("python:"):
        name = spec.removeprefix("python:")
        if not name.isidentifier():  # to find a.b, Python would import a
            raise InputError(f"{spec!r} must name a package by one word, such as python:package")
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise MissingFileError(
                f"the Python package {name} is not installed; `make photos-deps` installs it"
            )
        return Path(found.submodule_search_locations[0])
    if Path(spec).exists():
        return Path(spec)
    try:
        return Path(
            snapshot_download(spec, allow_patterns=["*.json", "*.txt", "*.safetensors", "pytorch_model.bin"])
        )
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise MissingFileError(f"{spec} is neither a path here nor a hub repository: {error}") from error


def _may_be_named_by_a_file(spec: str) -> bool:
    path = Path(spec)
    below = not path.is_absolute() and path.is_dir() and path.resolve().is_relative_to(Path.cwd())
    return spec in KNOWN_BERTS or below


def tensor_file(path: Path) -> Path:
    """The file itself, or the one file of tensors below a folder.

    Raises MissingFileError if there is none, or more than one, and for a device or a pipe.
    """
    if not path.is_dir():
        if not path.is_file():
            raise MissingFileError(f"{path} is no file of tensors")
        return path
    files = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
    files = [file for file in files if file.suffix == ".safetensors"] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise MissingFileError(
            f"{path} must hold exactly one file of tensors ({', '.join(SUFFIXES)}); found {names}"
        )
    return files[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of one file (or of the one such file below a folder); of a pickle nothing is run.

    Raises InputError for a damaged file, and for one that holds something else than tensors by name.
    """
    path = tensor_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers, or is damaged; it is read with "
            "weights_only, so that nothing in it is run"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises almost any type
        raise InputError(f"{path} is no file of tensors, or a damaged one: {str(error)[:500]}") from error
    others = (
        [name for name, value in found.items() if not isinstance(value, Tensor)] if _is_dict(found) else [""]
    )
    if others:
        raise InputError(f"{path} holds a {type(found).__name__} that is no dictionary of tensors by name")
    return dict(found)


def _is_dict(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def bert_folder(spec: str, trusted: bool = True) -> Path:
    """The folder with `config.json` that `spec` means; arguments and errors as of `find_weights`."""
    folder = find_weights(spec, trusted)
    if (folder / "config.json").is_file():
        return folder
    inner = [path.parent for path in folder.glob("*/config.json")]
    if len(inner) != 1:
        raise MissingFileError(f"{folder} holds no config.json of a BERT or RoBERTa")
    return inner[0]


def bert_config(
    folder: Path, text_layers: int, cross_layers: int, pooling: Literal["first", "mean"] = "first"
) -> TextConfig:
    """Sizes from a BERT or RoBERTa folder; how its layers are shared out is the caller's choice."""
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
    """A field of a BERT's `config.json`."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{folder / 'config.json'}: {name} is {value!r:.40}; it must be a number")
    return value


_HEADS = {"cls.predictions.": LANGUAGE_HEAD[False], "lm_head.": LANGUAGE_HEAD[True]}
_EMBEDDINGS = {
    **{f"embeddings.{their}.weight": f"text.embedding.{ours}.weight" for ours, their in EMBEDDINGS.items()},
    "embeddings.LayerNorm.bias": "text.embedding.norm.bias",
    **{
        f"{head}{their}.{kind}": f"masked.{ours}.{kind}"
        for head, modules in _HEADS.items()
        for ours, their in modules.items()
        for kind in ("weight", "bias")
    },
    **{f"{head}bias": "masked.bias" for head in _HEADS},
}
_QKV = LAYER["attention.qkv"]
_LAYER = {
    theirs[0]: ours for ours, theirs in LAYER.items() if theirs != _QKV and not ours.startswith("cross")
}
_NOT_NEEDED = {
    "embeddings.position_ids": "a constant",
    "pooler.": "the contrastive head reads states directly",
    "cls.seq_relationship.": "no next-sentence loss",
    "cls.predictions.decoder.": "tied to the token embeddings",
    "lm_head.decoder.": "tied to the token embeddings",
}


def load_bert(model: XVLM, folder: Path, spread: bool = False) -> tuple[set[str], dict[str, str]]:
    """Put a BERT's or RoBERTa's weights into the text stack, its first layers into the text encoder, the next
    into the cross-modal encoder.

    Args:
        spread: where there are more layers left than the cross-modal encoder has, take those that are evenly
            spread up to the last, instead of the next (published for X-VLM-large: of 24 layers the first 12,
            then every other one).
    Returns:
        (names of the model's parameters that were given, tensors of the checkpoint not needed -> why).
    Raises:
        InputError: a tensor is unknown, missing, or of another shape; the message names it.
    """
    tensors = {_todays_name(name): value for name, value in read_tensors(folder).items()}
    depth = _number(read_json(folder / "config.json"), "num_hidden_layers", folder)
    ours_of = _layers_taken(depth, len(model.text.layers), len(model.fusion.layers), spread)
    given: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        reason = next((why for start, why in _NOT_NEEDED.items() if name.startswith(start)), None)
        ours = _EMBEDDINGS.get(name, "")
        if ours.startswith("masked.") and not hasattr(model, "masked"):
            unused[name] = "this model predicts no hidden words"
        elif ours:
            given[ours] = value
        elif reason:
            unused[name] = reason
        elif name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            module, _, kind = rest.rpartition(".")
            if int(number) not in ours_of:
                unused[name] = f"this model has {len(ours_of)} layers"
                continue
            ours = ours_of[int(number)]
            if module in _LAYER:
                given[f"{ours}.{_LAYER[module]}.{kind}"] = value
            elif module in _QKV:
                qkv.setdefault(f"{ours}.attention.qkv.{kind}", {})[module] = value
            else:
                raise InputError(f"{folder}: unknown tensor {name}")
        else:
            raise InputError(f"{folder}: unknown tensor {name}")
    for name, parts in qkv.items():
        if len(parts) == len(_QKV):
            given[name] = torch.cat([parts[kind] for kind in _QKV])
    missing = [name for name in _wanted_from_bert(model, ours_of.values()) if name not in given]
    if missing:
        raise InputError(f"{folder} lacks tensors: nothing (or only a part) for {', '.join(missing[:5])}")
    put(model, given, str(folder))
    return set(given), unused


def _todays_name(name: str) -> str:
    """Without the model's prefix; `bert-base-uncased` still calls its norms' weights gamma and beta."""
    name = name.removeprefix("bert.").removeprefix("roberta.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _wanted_from_bert(model: XVLM, layers: Iterable[str]) -> list[str]:
    """What a BERT has to give: embeddings, and of these layers all but cross-attention."""
    starts = ("text.embedding.", *(f"{layer}." for layer in layers))
    return [name for name in model.state_dict() if ".cross" not in name and name.startswith(starts)]


def _layers_taken(depth: int, text_layers: int, cross_layers: int, spread: bool) -> dict[int, str]:
    """Which layer of ours each of a BERT's `depth` layers becomes; those that are not taken are left out."""
    taken = {number: f"text.layers.{number}" for number in range(min(depth, text_layers))}
    step = max(1, (depth - text_layers) // cross_layers) if spread and cross_layers else 1
    for number in range(cross_layers):
        theirs = text_layers + (number + 1) * step - 1
        if theirs < depth:
            taken[theirs] = f"fusion.layers.{number}"
    return taken


@torch.no_grad()
def put(model: nn.Module, given: Mapping[str, Tensor], origin: str) -> None:
    """Copy named tensors into a model, or none of them.

    Raises InputError naming one that is unknown or of another shape.
    """
    own = model.state_dict()
    for name, value in given.items():
        if name not in own:
            raise InputError(f"{origin}: the model has no {name}")
        if own[name].shape != value.shape:
            raise InputError(
                f"{origin}: {name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
            )
    for name, value in given.items():
        own[name].copy_(value)


def load_vision_by_order(model: nn.Module, path: Path) -> None:
    """Put a state dict into a timm model whose tensors stand in the same order under other names.

    For towers that packages ship under their own names (EfficientNet-Lite0).  A classifier at the end is
    left out.

    Raises InputError at the first tensor whose shape differs, if there are too few, and for safetensors,
    which keep no order.
    """
    path = tensor_file(path)
    if path.suffix == ".safetensors":
        raise InputError(f"{path} keeps no order of its tensors; a PyTorch file is needed")
    theirs = [(name, value) for name, value in read_tensors(path).items()]
    ours = list(model.state_dict().items())
    left = [name for name, _ in theirs[len(ours) :]]
    if len(theirs) < len(ours) or any("fc" not in name and "classifier" not in name for name in left):
        raise InputError(
            f"{path}: {len(theirs)} tensors for {len(ours)}; left over: {', '.join(left[:5]) or 'none'}"
        )
    matched = list(zip(ours, theirs[: len(ours)], strict=True))
    for (our_name, own), (their_name, value) in matched:
        if value.shape != own.shape:
            raise InputError(
                f"{path}: {their_name} is {tuple(value.shape)}, {our_name} is {tuple(own.shape)}"
            )
    put(model, {our_name: value for (our_name, _), (_, value) in matched}, str(path))
