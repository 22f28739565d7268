"""`xvlm average`: average the weights of several models (WiSE-FT, model soups)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.models.calibration import Calibration
from xvlm.models.checkpoints.folder import (
    ModelBundle,
    check_model_output,
    load_model,
    local_folder,
    save_model,
)
from xvlm.models.checkpoints.position_resize import fit_positions
from xvlm.models.checkpoints.vocabulary import check_vocabulary


def average(folders: Sequence[str | Path], out: Path, weights: Sequence[float] = ()) -> ModelBundle:
    """Average models that share an ancestor, and write the result to `out`.

    The first model decides the heads and the image size of the result.  Each of its tensors becomes the mean
    over the models that have it; tensors that it lacks are left out.  Halfway between a model and its
    fine-tuned version, a model often retains what fine-tuning forgets (Wortsman et al., "Robust fine-tuning
    of zero-shot models", CVPR 2022); the mean of models of different initialization is useless.

    Args:
        folders: model folders, run folders or hub repositories, at least two.
        out: folder to write.
        weights: one for each model, in any unit; empty for equal weights.
    Raises:
        InputError: there are too few models, the weights do not fit them, or the architectures differ.
        MissingFileError: a folder holds no model.
        OutputError: `out` is one of the models, or something other than a model folder; see
            `check_model_output`.
    """
    weights = list(weights) or [1.0] * len(folders)
    _check_weights(folders, weights)
    paths = [local_folder(folder) for folder in folders]
    size = (paths[0] / "model.safetensors").stat().st_size if paths[0].is_dir() else 0
    check_model_output(out, [*folders, *paths], size)
    first = load_model(folders[0])
    check_vocabulary(first.tokenizer, first.model.config.text.vocab_size, str(folders[0]))
    own = {name: value for name, value in first.model.state_dict().items() if value.is_floating_point()}
    sums = {name: weights[0] * value for name, value in own.items()}
    total_weights = dict.fromkeys(own, weights[0])
    for folder, weight in zip(folders[1:], weights[1:], strict=True):
        for name, value in _common_tensors(first, folders[0], load_model(folder), folder).items():
            sums[name].add_(value, alpha=weight)
            total_weights[name] += weight
    with torch.no_grad():
        for name, value in own.items():
            if total_weights[name] > 0:  # else only models of weight 0 have the tensor, and it stays
                value.copy_(sums[name] / total_weights[name])
    # A calibration of one model says nothing about another.
    first = replace(first, calibration=Calibration())
    save_model(first, out, {"averaged": dict(zip(map(str, folders), weights, strict=True))})
    return first


def _check_weights(folders: Sequence[str | Path], weights: Sequence[float]) -> None:
    if len(folders) < 2:
        raise InputError(f"averaging takes at least two models, found {len(folders)}")
    if len(weights) != len(folders):
        raise InputError(f"{len(weights)} weights for {len(folders)} models; give one for each, or none")
    if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
        raise InputError(f"weights are {weights}; each must be 0 or more, and one of them more than 0")


def _common_tensors(
    first: ModelBundle, first_folder: str | Path, other: ModelBundle, folder: str | Path
) -> dict[str, Tensor]:
    """Return the weights of `other` that `first` has too, with positions resized to its image size.

    Raises InputError naming the difference if the architectures differ.
    """
    for name, expected in _architecture(first).items():
        value = _architecture(other)[name]
        if value != expected:
            raise InputError(f"{folder} has another {name} than {first_folder}: {value}, not {expected}")
    own = first.model.state_dict()
    common = {
        name: value
        for name, value in other.model.state_dict().items()
        if name in own and value.is_floating_point()
    }
    if not common:
        raise InputError(f"{folder} has no weights in common with {first_folder}")
    fitted = fit_positions(first.model, common)
    for name, tensor in fitted.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{folder}: {name} is {tuple(tensor.shape)}, that of {first_folder} is "
                f"{tuple(own[name].shape)}; only models of one architecture can be averaged"
            )
    return fitted


def _architecture(bundle: ModelBundle) -> dict[str, object]:
    """Return what must be equal for weights of equal shape to have equal meaning."""
    config, vocabulary = bundle.model.config, bundle.tokenizer.__getstate__().encode()
    return {
        "tokenizer": f"{bundle.tokenizer.vocab_size} tokens, {hashlib.sha256(vocabulary).hexdigest()[:8]}",
        "vision encoder": config.vision.name,
        "text stack": replace(config.text, dropout=0.0),
    }
