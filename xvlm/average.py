"""`xvlm average`: one model whose weights lie between those of several (WiSE-FT, model soups)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from xvlm.errors import InputError
from xvlm.model.folder import Loaded, check_model_output, load_model, local_folder, save_model
from xvlm.model.resize import fit_positions
from xvlm.model.vocabulary import check_vocabulary


def average(folders: Sequence[str | Path], out: Path, weights: Sequence[float] = ()) -> Loaded:
    """Average models that were trained from one another, or from the same one; write the result to `out`.

    The first model says what the result can do and at which image size.  A tensor that others have too
    becomes the mean over those that have it; one that only the first has stays as it is, and what only others
    have is left out.  Between a model and what it was fine-tuned to, the middle often keeps what fine-tuning
    forgets (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022); between models that began
    differently there is nothing of use.

    Args:
        folders: model folders, run folders or hub repositories, at least two.
        out: folder to write.
        weights: one for each model, in any unit; empty: all weigh the same.
    Raises:
        InputError: too few models, weights that do not fit them, or models that are not of one kind.
        FileNotFoundError: a folder that holds no model.
        OutputError: `out` is one of the models, or something else than a model folder; see
            `check_model_output`.
    """
    weights = list(weights) or [1.0] * len(folders)
    check(folders, weights)
    places = [local_folder(folder) for folder in folders]
    size = (places[0] / "model.safetensors").stat().st_size if places[0].is_dir() else 0
    check_model_output(out, [*folders, *places], size)
    first = load_model(folders[0])
    check_vocabulary(first.tokenizer, first.model.config.text.vocab_size, str(folders[0]))
    own = {name: value for name, value in first.model.state_dict().items() if value.is_floating_point()}
    sums = {name: weights[0] * value for name, value in own.items()}
    weighed = dict.fromkeys(own, weights[0])
    for folder, weight in zip(folders[1:], weights[1:], strict=True):
        for name, value in shared(first, folders[0], load_model(folder), folder).items():
            sums[name].add_(value, alpha=weight)
            weighed[name] += weight
    with torch.no_grad():
        for name, value in own.items():
            if weighed[name] > 0:  # else only models of weight 0 have it: the first's stays
                value.copy_(sums[name] / weighed[name])
    save_model(first, out, {"averaged": dict(zip(map(str, folders), weights, strict=True))})
    return first


def check(folders: Sequence[str | Path], weights: Sequence[float]) -> None:
    """Raises InputError where there is nothing to average, or weights that do not fit."""
    if len(folders) < 2:
        raise InputError(f"averaging takes at least two models, {len(folders)} given")
    if len(weights) != len(folders):
        raise InputError(f"{len(weights)} weights for {len(folders)} models; give one for each, or none")
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
        raise InputError(f"weights are {weights}; each must be 0 or more, and one of them more than 0")


def shared(first: Loaded, first_folder: str | Path, other: Loaded, folder: str | Path) -> dict[str, Tensor]:
    """Weights of `other` under names that `first` has too, positions resized to its image size.

    Raises InputError naming what does not fit.
    """
    for name, wanted in kind(first).items():
        found = kind(other)[name]
        if found != wanted:
            raise InputError(f"{folder} has another {name} than {first_folder}: {found}, not {wanted}")
    own = first.model.state_dict()
    named = {
        name: value
        for name, value in other.model.state_dict().items()
        if name in own and value.is_floating_point()
    }
    if not named:
        raise InputError(f"{folder} has no weights in common with {first_folder}")
    given = fit_positions(first.model, named)
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"{folder}: {name} is {tuple(value.shape)}, that of {first_folder} is "
                f"{tuple(own[name].shape)}; only models of one architecture can be averaged"
            )
    return given


def kind(loaded: Loaded) -> dict[str, object]:
    """What has to be the same: else weights of the same shape mean something else."""
    config, vocabulary = loaded.model.config, loaded.tokenizer.__getstate__().encode()
    return {
        "tokenizer": f"{loaded.tokenizer.vocab_size} tokens, {hashlib.sha256(vocabulary).hexdigest()[:8]}",
        "vision encoder": config.vision.name,
        "text stack": replace(config.text, dropout=0.0),
    }
