"""Checkpoints of a run: written atomically, verified by checksums, restored bit for bit.

A checkpoint is a folder of safetensors and JSON, without pickles.  Weights, optimiser state and the number of
steps are all that a run has to save: random numbers are a function of (seed, step, rank), and the data of a
step a function of the step.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint import load as read_into

from xvlm import distributed
from xvlm.common.atomic import atomic_folder
from xvlm.common.errors import InputError, WeightsError
from xvlm.common.json_file import read_json
from xvlm.common.renames import renamed_names, renamed_tensors
from xvlm.common.terminal import print_notice
from xvlm.training.optimizer import ExponentialMovingAverage, first_non_finite
from xvlm.training.sharding import shard_like

MAX_CHECKPOINTS = 2
"""Number of checkpoints that a run keeps; older ones are removed."""
_SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
"""Files of a sharded run's checkpoint; see `sharded_checkpoint.py`."""


class _CheckpointFiles:
    """The names of all files that a checkpoint may consist of."""

    def __contains__(self, name: object) -> bool:
        whole = ("model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json")
        return name in whole or bool(_SHARD.fullmatch(str(name)))


FILES = _CheckpointFiles()


@dataclass
class TrainingState:
    """The part of a checkpoint that is not tensors.

    Attributes:
        step: number of optimiser steps done.
        pretrained_names: names of the parameters that a checkpoint provided when the run began.
        seconds: training time so far, over all sessions.
        bad: state of the counter of bad records.
    """

    step: int = 0
    pretrained_names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bad: dict[str, Any] = field(default_factory=dict)


def newest(out: Path) -> Path | None:
    """Return the newest checkpoint of a run's folder, intact or not, or `None` if there is none."""
    return next(reversed(_all_checkpoints(out)), None)


def _all_checkpoints(out: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step_????????") if path.is_dir())


def newest_intact(out: Path) -> Path | None:
    """Return the newest intact checkpoint of a run's folder, or `None` if it has no checkpoint.

    Newer, damaged ones are reported on standard error and renamed to `damaged_step_N`.

    Raises InputError if all checkpoints are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(_all_checkpoints(out)):
        reason = find_damage(folder)
        if reason is not None:
            damaged[folder] = reason
            continue
        for other, reason in damaged.items():
            print_notice(f"{other} is damaged ({reason}): {folder.name} is used")
            aside = other.with_name(f"damaged_{other.name}")
            if aside.exists():
                _remove(aside)
            other.replace(aside)
        return folder
    if damaged:
        reasons = "; ".join(f"{folder.name}: {reason}" for folder, reason in damaged.items())
        raise InputError(f"no checkpoint in {out / 'checkpoints'} is intact ({reasons}); name another folder")
    return None


def newest_intact_for_all_ranks(out: Path) -> Path | None:
    """Return what `newest_intact` finds in the main rank, on all ranks."""
    result: list[Path | None] = []
    distributed.run_on_main(lambda: result.append(newest_intact(out)))
    return distributed.broadcast_result(lambda: result[0])


def find_damage(folder: Path) -> str | None:
    """Return a description of the first problem in a checkpoint's files, or `None` if it is intact.

    Old checkpoints have no checksums; their files are read instead.
    """
    try:
        record = _read_record(folder)
        names = ["model.safetensors", "optimizer.safetensors"]
        names += ["average.safetensors"] if record["average_updates"] else []
        checksums: Mapping[str, str] = record.get("checksums") or dict.fromkeys(names, "")
        for name, expected in checksums.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if expected and _file_checksum(folder / name) != expected:
                return f"{name} is not what was written"
            if not expected:
                with safe_open(folder / name, framework="pt"):
                    pass
        weight = None if "checksums" in record else first_non_finite(load_file(folder / "model.safetensors"))
        return f"weight {weight} is not finite" if weight else None
    except (InputError, OSError, SafetensorError) as error:
        return str(error)


def save(
    out: Path,
    state: TrainingState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: ExponentialMovingAverage | None,
) -> Path:
    """Write `out/checkpoints/step_N`, then remove all but the newest checkpoints.

    Raises OutputError if it cannot be written.
    """
    folder, record = folder_of(out, state), record_of(state, optimizer, average)
    with atomic_folder(folder, FILES) as partial:
        for name, named_tensors in tensors_of(model, optimizer, average).items():
            contiguous = {key: value.contiguous() for key, value in named_tensors.items()}
            save_file(contiguous, partial / f"{name}.safetensors")
        complete(partial, record)
    remove_old(out)
    return folder


def folder_of(out: Path, state: TrainingState) -> Path:
    """Return the folder of the checkpoint after a step."""
    return out / "checkpoints" / f"step_{state.step:08d}"


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint, by part ("model", "optimizer", "average") and name."""
    tensors: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer)}
    if average is not None:
        tensors["average"] = average.values
    return tensors


def flat_tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> dict[str, Tensor]:
    """Return the tensors (...) of a checkpoint by part and name in one: `model/...`."""
    parts = tensors_of(model, optimizer, average)
    return {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}


def record_of(
    state: TrainingState, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> dict[str, Any]:
    """Return what `state.json` holds besides checksums."""
    return {
        **vars(state),
        "average_updates": average.updates if average else 0,
        # These have had no gradient yet, for example because their loss is not computed.
        "without_state": [name for name, p in _named_parameters(optimizer) if not optimizer.state[p]],
    }


def complete(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `state.json` with the checksums of the folder's other files."""
    files = sorted(folder.glob("*.safetensors"))
    record = {**record, "checksums": {file.name: _file_checksum(file) for file in files}}
    (folder / "state.json").write_text(json.dumps({**record, "checksum": _checksum_of(record)}))


def remove_old(out: Path) -> None:
    """Remove all but the newest checkpoints of a run."""
    for old in _all_checkpoints(out)[:-MAX_CHECKPOINTS]:
        _remove(old)
    for stale in (out / "checkpoints").glob("partial_[0-9]*"):  # earlier versions left them behind
        shutil.rmtree(stale)


def estimate_bytes(model: nn.Module, average: ExponentialMovingAverage | None) -> int:
    """Return the approximate size of a checkpoint."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return weights * (1 if average is None else 2) + moments


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name in FILES:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _file_checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _checksum_of(record: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of AdamW by parameter name: `name/exp_avg`, `name/exp_avg_sq`, `name/step`."""
    return {
        f"{name}/{kind}": value
        for name, parameter in _named_parameters(optimizer)
        for kind, value in optimizer.state[parameter].items()
    }


def _read_record(folder: Path) -> dict[str, Any]:
    """Read and check `state.json`.  Raises InputError or OSError."""
    path = folder / "state.json"
    record: dict[str, Any] = read_json(path)
    checksum = record.pop("checksum", None)
    if checksum is not None and checksum != _checksum_of(record):
        raise InputError(f"{path} is not what was written")
    record["has_old_names"] = "loaded" in record
    if "loaded" in record:
        record["pretrained_names"] = renamed_names(record.pop("loaded"))
        if "without_state" in record:
            record["without_state"] = renamed_names(record["without_state"])
    required = (*TrainingState.__dataclass_fields__, "average_updates")
    missing = [name for name in required if name not in record]
    if missing or (checksum is None) != ("checksums" not in record):
        raise InputError(f"{path} lacks {', '.join(missing) or 'its checksum'}")
    return record


def _state_of(record: Mapping[str, Any]) -> TrainingState:
    return TrainingState(**{name: record[name] for name in TrainingState.__dataclass_fields__})


def read_state(folder: Path) -> TrainingState:
    """Read a checkpoint's state without its tensors.  Raises InputError for a damaged file."""
    return _state_of(_read_record(folder))


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: ExponentialMovingAverage | None
) -> TrainingState:
    """Load a checkpoint into a model, its optimiser and its running average.

    Raises:
        InputError: a file is damaged, or lacks the optimiser state of a parameter.
        WeightsError: names or shapes differ.
    """
    if reason := find_damage(folder):
        raise InputError(f"{folder} is damaged: {reason}")
    record = _read_record(folder)
    if any(map(_SHARD.fullmatch, record.get("checksums", ()))):
        _load_parts(folder, record, model, optimizer, average)
    else:
        device = next(model.parameters()).device
        _load_weights(folder, _read_tensors(folder / "model.safetensors", record, device), model)
        _load_optimizer(folder, record, optimizer, device)
        if average is not None:
            values = _read_tensors(folder / "average.safetensors", record, device)
            average.values = {
                name: _with_layout_of(own, values[name]) for name, own in average.values.items()
            }
    if average is not None:
        average.updates = record["average_updates"]
    return _state_of(record)


def _load_parts(
    folder: Path,
    record: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: ExponentialMovingAverage | None,
) -> None:
    """Load the checkpoint of a sharded run, whatever is sharded now."""
    for name, parameter in _named_parameters(optimizer):
        if name not in record["without_state"]:
            moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    _read_parts(folder, flat_tensors_of(model, optimizer, average))


def _read_parts(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Read tensors into `targets`, in place: whole ones, or the parts that this rank holds.

    Raises WeightsError if names or shapes differ.
    """
    reader = HuggingFaceStorageReader(str(folder))
    stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
    found = {name: tuple(one.size) for name, one in stored.items()}
    wanted = {name: tuple(one.shape) for name, one in targets.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise WeightsError(
                f"{folder} holds another model: {name} has shape {found.get(name, 'none')} there and "
                f"{wanted.get(name, 'none')} here"
            )
    with warnings.catch_warnings():
        # Each rank reads what it holds; DCP takes that for a mistake.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        read_into(dict(targets), storage_reader=reader, no_dist=True)


def _load_weights(folder: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    try:
        model.load_state_dict({k: shard_like(own[k], v) if k in own else v for k, v in tensors.items()})
    except RuntimeError as error:
        raise WeightsError(f"{folder} holds another model: {error}") from error


def _read_tensors(path: Path, record: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    tensors = load_file(path, device=str(device))
    return renamed_tensors(tensors) if record["has_old_names"] else tensors


def _load_optimizer(
    folder: Path, record: Mapping[str, Any], optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in _read_tensors(folder / "optimizer.safetensors", record, device).items():
        name, _, kind = key.rpartition("/")
        saved.setdefault(name, {})[kind] = value
    kinds = set().union(*saved.values())
    missing, unknown = [], []
    for name, parameter in _named_parameters(optimizer):
        state = saved.pop(name, {})
        if not state and "without_state" not in record:
            unknown.append(name)
        elif state.keys() != kinds and (state or name not in record["without_state"]):
            missing.append(name)
        optimizer.state[parameter] = {
            kind: _with_layout_of(parameter, value) for kind, value in state.items()
        }
    if saved:
        unexpected = sorted(f"{name}/{kind}" for name, state in saved.items() for kind in state)
        raise WeightsError(f"{folder}: optimiser state of unknown parameters: {', '.join(unexpected[:5])}")
    if unknown and kinds:
        print_notice(
            f"{folder} does not record which parameters had no gradient: it is assumed of "
            f"{', '.join(unknown[:5])}"
        )
    if missing or (record["step"] and not kinds):
        names = ", ".join(missing[:5]) or "all parameters"
        raise InputError(f"{folder}/optimizer.safetensors lacks the optimiser's state of {names}")


def _with_layout_of(parameter: Tensor, value: Tensor) -> Tensor:
    """Return `value` in the memory format of the parameter that it belongs to.

    Files are row-major, but the fused AdamW pairs elements by their position in memory.  Without the
    conversion it would silently pair a channels-last weight with the wrong elements of its moments.
    """
    if value.shape != parameter.shape:  # the step count
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(shard_like(parameter, value))
