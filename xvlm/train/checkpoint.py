"""Checkpoints: written whole or not at all, read back bit for bit, checked by what was noted of each file.

A checkpoint is a folder of safetensors and JSON; nothing in it is a pickle.  Since randomness is a function
of (seed, step, rank) and the order a function of the position, weights, optimiser state and the number of
steps done are everything that a run has to remember.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xvlm import dist
from xvlm.errors import InputError, WeightsError
from xvlm.jsonfile import read_json
from xvlm.terminal import notice
from xvlm.train.optim import Average, first_not_finite
from xvlm.whole import whole_folder

KEEP = 2
_FILES = ("model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json")


@dataclass
class State:
    """What besides tensors is remembered.

    Attributes:
        step: optimiser steps done.
        loaded: names of parameters that came from elsewhere when the run began (they learn slower).
        seconds: of training so far, over all sittings.
        bad: the ledger of bad records.
    """

    step: int = 0
    loaded: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bad: dict[str, Any] = field(default_factory=dict)


def newest(out: Path) -> Path | None:
    """The newest checkpoint of a run's folder, intact or not, or `None`."""
    found = _all(out)
    return found[-1] if found else None


def _all(out: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step_????????") if path.is_dir())


def newest_intact(out: Path) -> Path | None:
    """The newest checkpoint that can be read, or `None` where there is none at all.

    Newer ones that are damaged are named on standard error and set aside as `damaged_step_N`.

    Raises InputError where there are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(_all(out)):
        why = damage(folder)
        if why is None:
            for other, reason in damaged.items():
                notice(f"{other} is damaged ({reason}): {folder.name} is used")
                aside = other.with_name(f"damaged_{other.name}")
                if aside.exists():
                    _remove(aside)
                other.replace(aside)
            return folder
        damaged[folder] = why
    if damaged:
        told = "; ".join(f"{folder.name}: {why}" for folder, why in damaged.items())
        raise InputError(f"no checkpoint in {out / 'checkpoints'} is intact ({told}); name another folder")
    return None


def chosen_by_main(out: Path) -> Path | None:
    """`newest_intact` of the main process, for all ranks."""
    found: list[Path | None] = []
    dist.on_main(lambda: found.append(newest_intact(out)))
    return dist.of_main(lambda: found[0])


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; `None` if nothing is.

    A checkpoint of a version that noted no checksums is read in full instead.
    """
    try:
        record = _record(folder)
        names = ["model.safetensors", "optimizer.safetensors"]
        names += ["average.safetensors"] if record["average_updates"] else []
        checksums: Mapping[str, str] = record.get("checksums") or dict.fromkeys(names, "")
        for name, noted in checksums.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if noted and checksum(folder / name) != noted:
                return f"{name} is not what was written"
            if not noted:
                with safe_open(folder / name, framework="pt"):
                    pass
        weight = None if "checksums" in record else first_not_finite(load_file(folder / "model.safetensors"))
        if weight:
            return f"weight {weight} is not finite"
    except (InputError, OSError, SafetensorError) as error:
        return str(error)
    return None


def save(
    out: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> Path:
    """Write `out/checkpoints/step_N`; older ones but the last few are removed afterwards.

    Raises OutputError where it cannot be written.
    """
    folder = out / "checkpoints" / f"step_{state.step:08d}"
    tensors = {
        "model": {name: value.contiguous() for name, value in model.state_dict().items()},
        "optimizer": optimizer_tensors(optimizer),
    }
    if average is not None:
        tensors["average"] = {name: value.contiguous() for name, value in average.values.items()}
    with whole_folder(folder, _FILES) as partial:
        checksums = {}
        for name, of_name in tensors.items():
            file = partial / f"{name}.safetensors"
            save_file(of_name, file)
            checksums[file.name] = checksum(file)
        record = {
            **vars(state),
            "average_updates": average.updates if average else 0,
            "without_state": _without_state(optimizer),
            "checksums": checksums,
        }
        (partial / "state.json").write_text(json.dumps({**record, "checksum": _checksum_of(record)}))
    for old in _all(out)[:-KEEP]:
        _remove(old)
    for stale in (out / "checkpoints").glob("partial_[0-9]*"):  # of earlier versions
        shutil.rmtree(stale)
    return folder


def bytes_needed(model: nn.Module, average: Average | None) -> int:
    """About how large a checkpoint is."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return weights * (1 if average is None else 2) + moments


def _remove(folder: Path) -> None:
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def checksum(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _checksum_of(record: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `name/exp_avg`, `name/exp_avg_sq`, `name/step`."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for kind, value in optimizer.state[parameter].items():
                tensors[f"{name}/{kind}"] = value.contiguous()
    return tensors


def _without_state(optimizer: torch.optim.Optimizer) -> list[str]:
    """Parameters that have had no gradient yet, such as those of a loss that is not computed."""
    return [
        name
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        if not optimizer.state[parameter]
    ]


def _record(folder: Path) -> dict[str, Any]:
    """`state.json`, checked.  Raises InputError or OSError."""
    path = folder / "state.json"
    record: dict[str, Any] = read_json(path)
    noted = record.pop("checksum", None)
    missing = [name for name in (*State.__dataclass_fields__, "average_updates") if name not in record]
    if missing or (noted is None) != ("checksums" not in record):
        raise InputError(f"{path} lacks {', '.join(missing) or 'its checksum'}")
    if noted is not None and noted != _checksum_of(record):
        raise InputError(f"{path} is not what was written")
    return record


def read_state(folder: Path) -> State:
    """The state of a checkpoint, without its tensors.  Raises InputError for a damaged file."""
    record = _record(folder)
    return State(**{name: record[name] for name in State.__dataclass_fields__})


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> State:
    """Put a checkpoint's tensors where they were.

    Raises:
        InputError: a file is damaged, or the optimiser's state of a parameter is not there.
        WeightsError: names or shapes differ.
    """
    if why := damage(folder):
        raise InputError(f"{folder} is damaged: {why}")
    device = next(model.parameters()).device
    record = _record(folder)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors", device=str(device)))
    except RuntimeError as error:
        raise WeightsError(f"{folder} holds another model: {error}") from error
    _load_optimizer(folder, record, optimizer, device)
    if average is not None:
        values = load_file(folder / "average.safetensors", device=str(device))
        average.values = {name: laid_out_as(own, values[name]) for name, own in average.values.items()}
        average.updates = record["average_updates"]
    return State(**{name: record[name] for name in State.__dataclass_fields__})


def _load_optimizer(
    folder: Path, record: Mapping[str, Any], optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors", device=str(device)).items():
        name, _, kind = key.rpartition("/")
        saved.setdefault(name, {})[kind] = value
    kinds = set().union(*saved.values())
    lacking, unknown = [], []
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            of_name = saved.pop(name, {})
            if not of_name and "without_state" not in record:
                unknown.append(name)
            elif of_name.keys() != kinds and (of_name or name not in record["without_state"]):
                lacking.append(name)
            optimizer.state[parameter] = {
                kind: laid_out_as(parameter, value) for kind, value in of_name.items()
            }
    if saved:
        strange = sorted(f"{name}/{kind}" for name, of_name in saved.items() for kind in of_name)
        raise WeightsError(f"{folder}: optimiser state of unknown parameters: {', '.join(strange[:5])}")
    if unknown and kinds:
        notice(
            f"{folder} does not say which parameters had no gradient: none is taken for "
            f"{', '.join(unknown[:5])}"
        )
    if lacking or (record["step"] and not kinds):
        named = ", ".join(lacking[:5]) or "all parameters"
        raise InputError(f"{folder}/optimizer.safetensors lacks the optimiser's state of {named}")


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` (...), in the memory format of a parameter of its shape.

    Files are row-major; the fused AdamW walks through memory, and would pair a channels-last weight with the
    wrong element of a row-major moment without a word.
    """
    if value.shape != parameter.shape:  # the count of steps
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
