"""The folder of a run: its content, and checks that a run may begin or continue in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError, MissingFileError, OutputError
from xvlm.common.json_file import read_json, to_json
from xvlm.common.outputs import check_writable
from xvlm.common.renames import TASKS, renamed_run
from xvlm.config import OptimConfig, Run, flatten, from_json
from xvlm.models.checkpoints.folder import check_model_output
from xvlm.registry import check_is_loaded
from xvlm.tasks.common.init import resolve_model
from xvlm.tasks.common.task import find_task
from xvlm.training import checkpoint
from xvlm.training.log import last_logged_step

RUN_ENTRIES = (
    "run.json", "torchrun.json", "log.jsonl", "tokenizer.json", "bad_records.jsonl",
    "checkpoints", "tensorboard", "mlflow.json", "wandb.json", "wandb", "model", "best",
)  # fmt: skip
"""Files and folders that a run writes."""

_CHANGEABLE_FIELDS = (
    "workers", "log_every", "trackers", "save_every", "eval_every", "best_metric", "max_bad", "max_pixels",
    "allow_remote", "allow_private", "shard_cache", "shard_cache_gb", "compile", "cpu_memory_efficient",
    "gpu_kernels", "shard_degree", "activation_checkpointing", "deterministic", "collective_timeout",
    "optim.steps",
)  # fmt: skip
"""Fields that may change when a run continues, like those of `validation`: they do not affect the weights, or
extend the run."""


def check_run_folder(run: Run, out: Path, resume: bool, new_precision: bool = False) -> bool:
    """Check that a run may begin or continue in the folder `out`.

    Args:
        resume: whether to continue a run of the folder; any run may begin where no step was taken yet.
        new_precision: whether the user set a precision, which may then differ from the folder's run.
    Returns:
        whether the folder holds a checkpoint.
    Raises:
        OutputError: the folder cannot be written; it holds files that no run wrote, or a run without
            checkpoints; or it holds a run and `resume` is not set.
        InputError: the folder holds a different run.
    """
    check_writable(out)
    existing = [name for name in RUN_ENTRIES if os.path.lexists(out / name)]
    if existing and not is_run_folder(out):
        raise OutputError(
            f"{out} holds {', '.join(existing)}, but no run of xvlm that they belong to; name another --out"
        )
    for name in ("model", "best"):
        check_model_output(out / name)
    saved = checkpoint.newest(out) is not None
    if not resume and (saved or last_logged_step(out / "log.jsonl")):
        raise OutputError(f"{out} holds a run already; --resume goes on with it, or name another --out")
    if not saved and (out / "model").exists():
        raise OutputError(
            f"{out} holds a run whose checkpoints are gone, so it cannot continue; name another --out"
        )
    if saved and (out / "run.json").exists():
        # Parsing it as a run gives fields that are newer than the folder their defaults.
        before = to_json(resolve_model(read_run(out / "run.json")))
        check_same_run(run, before | ({"precision": run.precision} if new_precision else {}), out)
    return saved


def is_run_folder(out: Path) -> bool:
    """Return whether a run of xvlm began in `out`."""
    try:
        if (out / "run.json").is_file():
            return {"recipe", "task", "optim"} <= read_json(out / "run.json").keys()
        if (out / "log.jsonl").is_file():
            return last_logged_step(out / "log.jsonl") > 0 or (out / "log.jsonl").stat().st_size == 0
    except (OSError, ValueError):
        pass
    return False


def check_report_files(out: Path, names: Iterable[str], run_folder: Path | None = None) -> None:
    """Check that report files in `out` belong to a run, in `run_folder` or in `out`, or do not exist yet.

    Raises OutputError, also if `out` cannot be written.
    """
    check_writable(out)
    existing = [name for name in names if os.path.lexists(out / name)]
    if existing and not is_run_folder(run_folder or out):
        raise OutputError(
            f"{out} holds {', '.join(existing)}, but no run that they belong to; name another --out"
        )


def remove_run(out: Path) -> None:
    """Remove what a run wrote into its folder, and the folder if it is empty then."""
    for name in RUN_ENTRIES:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def check_same_run(run: Any, before: Mapping[str, Any], out: Path) -> None:
    """Raise InputError, with the name of a field, if the run of the folder `out` differs from `run`.

    Args:
        before: content of the folder's `run.json`.
    """
    new, old = flatten(to_json(run)), flatten(before)
    may_differ = {*_CHANGEABLE_FIELDS, *(["optim.warmup_steps"] if new["optim.warmup_ratio"] else [])}
    if not (new.get("init.model") or new.get("init.text")):
        may_differ.add("model.text.vocab_size")  # the tokenizer decides it
    for name in sorted(new.keys() | old.keys()):
        if name in may_differ or name.startswith("validation.") or new.get(name) == old.get(name):
            continue
        hint = f"--precision {new[name]} goes on so" if name == "precision" else "go on with the same"
        raise InputError(
            f"{out} holds another run: {name} was {old.get(name)}, now it is {new.get(name)}; "
            f"{hint}, or name another folder"
        )


def read_run(path: Path) -> Run:
    """Read a run from its `run.json`; its type is that of its task.

    Raises MissingFileError, or InputError for a file that holds no run.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not a file; every run's folder holds a run.json")
    data = read_json(path)
    task = data.get("task", "pretrain")
    if not isinstance(task, str):
        raise InputError(f"{path} holds no run: its task must be a name")
    check_is_loaded({name: value for name, value in data.items() if name != "recipe"}, path)
    kind = find_task(TASKS.get(task, task)).run
    try:
        run: Run = from_json(kind, renamed_run(data))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    optim = run.optim
    if optim.epochs:  # the number of steps depends on the data
        optim = replace(optim, steps=OptimConfig().steps)
    if optim.warmup_ratio:
        optim = replace(optim, warmup_steps=OptimConfig().warmup_steps)
    return replace(run, optim=optim)
