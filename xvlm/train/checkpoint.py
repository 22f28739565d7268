"""Checkpoints: written whole or not at all, read back bit for bit.

A checkpoint is a folder of safetensors and JSON; nothing in it is a pickle.  Since randomness is a function
of (seed, step, rank) and the order a function of the position, weights, optimiser state and the number of
steps done are everything that a run has to remember.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xvlm.train.optim import Average
from xvlm.whole import whole_or_nothing

KEEP = 2


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
    """The newest complete checkpoint of a run's folder, or `None`."""
    found = sorted((out / "checkpoints").glob("step_????????"))
    return found[-1] if found else None


def save(
    out: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> Path:
    """Write `out/checkpoints/step_N`; older ones but the last few are removed afterwards."""
    folder = out / "checkpoints" / f"step_{state.step:08d}"
    partial = folder.with_name(f"partial_{os.getpid()}")
    tensors = {
        "model": {name: value.contiguous() for name, value in model.state_dict().items()},
        "optimizer": optimizer_tensors(optimizer),
    }
    if average is not None:
        tensors["average"] = {name: value.contiguous() for name, value in average.values.items()}
    with whole_or_nothing(partial):
        for name, of_name in tensors.items():
            save_file(of_name, partial / f"{name}.safetensors")
        record = {**vars(state), "average_updates": average.updates if average else 0}
        (partial / "state.json").write_text(json.dumps(record))
        _flush(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    for old in sorted((out / "checkpoints").glob("step_????????"))[:-KEEP]:
        shutil.rmtree(old)
    for stale in (out / "checkpoints").glob("partial_*"):
        shutil.rmtree(stale)
    return folder


def _flush(folder: Path) -> None:
    """To the disk, so that a rename never outlives a crash that the contents did not."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `name/exp_avg`, `name/exp_avg_sq`, `name/step`."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for kind, value in optimizer.state[parameter].items():
                tensors[f"{name}/{kind}"] = value.contiguous()
    return tensors


def read_state(folder: Path) -> State:
    """The state of a checkpoint, without its tensors."""
    record = json.loads((folder / "state.json").read_text())
    return State(**{name: record[name] for name in State.__dataclass_fields__})


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None) -> State:
    """Put a checkpoint's tensors where they were.  Raises RuntimeError where names or shapes differ."""
    device = next(model.parameters()).device
    model.load_state_dict(load_file(folder / "model.safetensors", device=str(device)))
    saved = load_file(folder / "optimizer.safetensors", device=str(device))
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            kinds = {key.rsplit("/", 1)[1]: key for key in saved if key.rsplit("/", 1)[0] == name}
            optimizer.state[parameter] = {
                kind: laid_out_as(parameter, saved.pop(key)) for kind, key in kinds.items()
            }
    if saved:
        raise RuntimeError(f"{folder}: optimiser state of unknown parameters: {', '.join(sorted(saved)[:5])}")
    if average is not None:
        values = load_file(folder / "average.safetensors", device=str(device))
        average.values = {name: laid_out_as(own, values[name]) for name, own in average.values.items()}
        average.updates = json.loads((folder / "state.json").read_text())["average_updates"]
    return read_state(folder)


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` (...), in the memory format of a parameter of its shape.

    Files are row-major; the fused AdamW walks through memory, and would pair a channels-last weight with the
    wrong element of a row-major moment without a word.
    """
    if value.shape != parameter.shape:  # the count of steps
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
