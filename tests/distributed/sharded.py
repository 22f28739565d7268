"""Trainings of every task on one process, on copies (DDP) and on shards (FSDP2), in float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from tests.contracts import toys
from tests.tiny import VISION
from xvlm import distributed
from xvlm.common.errors import InputError, OutputError
from xvlm.models.activation_checkpointing import checkpoint_activations
from xvlm.tasks.common.task import find_task
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.training.loop import fit
from xvlm.training.sharding import Sharding, local_part
from xvlm.training.train import train

TOWERS = ("swin", "vit", "cnn")


def run_of(name: str, steps: int = 2, tower: str = "", **fields: Any) -> Any:
    """Return the toy run of a task, with the towers in turn."""
    run = toys.RUNS[name]()
    tower = tower or TOWERS[sorted(toys.RUNS).index(name) % len(TOWERS)]
    model = replace(run.model, vision=replace(VISION[tower], image_hw=(64, 64)))
    optim = replace(run.optim, steps=steps, ema_decay=0.9)
    return replace(run, model=model, optim=optim, **fields)


def trained(run: Any, out: Path, **options: Any) -> dict[str, Tensor]:
    """Train in float64, and return the averaged weights."""
    out.mkdir(parents=True, exist_ok=True)
    built = find_task(run.task).build(run, out)
    module = built.loss_module.double()
    checkpoint_activations(module, run.activation_checkpointing)
    fit(module, built.steps, run, out, pretrained_names=built.pretrained_names, **options)
    return {name: value.detach().clone() for name, value in module.model.state_dict().items()}


def modes() -> dict[str, dict[str, Any]]:
    """Return the fields of each way to train on this number of ranks."""
    ranks = distributed.world_size()
    hybrid = {"copies of shards": {"shard_degree": ranks // 2}} if ranks > 2 else {}
    return {"copies": {}, "shards": {"shard_degree": 0}, **hybrid}


def all_tasks(folder: Path, names: Sequence[str] | None = None) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Train each task in each way."""
    return {
        name: {
            mode: trained(run_of(name, **fields), folder / name / mode.replace(" ", "_"))
            for mode, fields in modes().items()
        }
        for name in names or sorted(toys.RUNS)
    }


def on_four_ranks(folder: Path) -> dict[str, Any]:
    """Train pre-training in each way, and begin a run in `folder/begun`."""
    return {**all_tasks(folder, ["pretrain"]), **begin(folder)}


def grounding(**fields: Any) -> Any:
    """Return a run of four steps that any number of ranks computes alike."""
    return run_of("grounding", steps=4, tower="swin", save_every=2, **fields)


def begin(folder: Path) -> dict[str, Any]:
    """Train grounding on shards.  Return the share of parameters on this rank, and the weights."""
    held: list[float] = []
    build = Sharding.__init__

    def build_and_count(sharding: Sharding, module: Any, degree: int) -> None:
        build(sharding, module, degree)
        parameters = list(module.parameters())
        held.append(sum(local_part(p).numel() for p in parameters) / sum(p.numel() for p in parameters))

    Sharding.__init__ = build_and_count  # type: ignore[method-assign]
    try:
        weights = trained(grounding(shard_degree=0), folder / "begun")
    finally:
        Sharding.__init__ = build  # type: ignore[method-assign]
    return {"share": held[0], "weights": weights}


def resume(folder: Path, begun: str) -> dict[str, Tensor]:
    """Continue a copy of a run after its second step, sharded on the ranks that there are now."""
    out = folder / f"{begun}_on_{distributed.world_size()}"
    if distributed.is_main():
        shutil.copytree(folder / begun, out)
        shutil.rmtree(out / "checkpoints" / "step_00000004")
    with distributed.main_first():
        pass
    return trained(grounding(shard_degree=0), out, resume=True)


def evaluated(folder: Path) -> dict[str, dict[str, float]]:
    """Train with evaluations and a best model, on copies and on shards, and return the last metrics."""
    metrics = {}
    for mode, fields in modes().items():
        validation = ZeroShotValidation(grounding=toys.scenes(count=6)[0].path)
        run = run_of("pretrain", tower="swin", eval_every=1, best_metric="grounding_acc50", **fields)
        train(replace(run, validation=validation), folder / mode)
        rows = [json.loads(line) for line in (folder / mode / "log.jsonl").read_text().splitlines()]
        last = [row for row in rows if row.get("event") == "eval"][-1]
        metrics[mode] = {name: value for name, value in last.items() if isinstance(value, float)}
    return metrics


def on_two_ranks(folder: Path) -> dict[str, Any]:
    """Compute all that is tested on two ranks besides the tasks."""
    return {
        "tasks": all_tasks(folder),
        "recomputed": recomputed(folder / "recomputed"),
        "metrics": evaluated(folder),
        "begun": resume(folder, "begun"),
        "one_file": resume(folder, "one_file"),
        "wrong degree": wrong_degree(folder),
        "full disk": full_disk(folder),
    }


def recomputed(folder: Path) -> dict[str, Tensor]:
    """Train pre-training on shards with activation checkpointing."""
    return trained(run_of("pretrain", shard_degree=0, activation_checkpointing="full"), folder)


def full_disk(folder: Path) -> str:
    """Train while the disk is full on rank 1 for checkpoints, and return the error."""

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if distributed.rank():
        HuggingFaceStorageWriter.write_data = fail  # type: ignore[method-assign]
    try:
        trained(grounding(shard_degree=0), folder / "full")
    except OutputError as error:
        return str(error)
    return "no error"


def wrong_degree(folder: Path) -> str:
    """Return the error of a run that shards over groups of three of two ranks."""
    try:
        trained(grounding(shard_degree=3), folder / "run")
    except InputError as error:
        return str(error)
    return "no error"
