"""What a run's folder holds, and whether a run may begin or go on in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xvlm.errors import InputError, MissingFileError, OutputError
from xvlm.jsonfile import read_json
from xvlm.lookup import find
from xvlm.model.folder import check_model_output
from xvlm.outputs import check_writable
from xvlm.run import Run, from_json, to_json
from xvlm.train import checkpoint
from xvlm.train.log import steps_logged

WRITTEN = (
    "run.json",
    "log.jsonl",
    "tokenizer.json",
    "bad_records.jsonl",
    "checkpoints",
    "tensorboard",
    "model",
    "best",
)
"""What a run writes."""

MAY_CHANGE = (
    "workers",
    "log_every",
    "save_every",
    "eval_every",
    "keep_best",
    "max_bad",
    "max_pixels",
    "allow_remote",
    "allow_private",
    "compile",
    "optim.steps",
)
"""Fields of a run that its result does not depend on (as on none of `dev`), and its length: a run may be made
longer."""


def check_run_folder(run: Run, out: Path, resume: bool, new_precision: bool = False) -> bool:
    """Whether `out` holds steps that were saved; where none was taken, another run may begin in it.

    Args:
        new_precision: the person asked for this precision, though the folder's run had another.
    Raises:
        OutputError: it cannot be written, holds what no run wrote, or a run and `resume` is not set.
        InputError: it holds another run than this one.
    """
    check_writable(out)
    there = [name for name in WRITTEN if (out / name).exists() or (out / name).is_symlink()]
    if there and not is_run(out):
        raise OutputError(
            f"{out} holds {', '.join(there)}, but no run of xvlm that they belong to; name another --out"
        )
    for name in ("model", "best"):
        check_model_output(out / name)
    saved, logged = checkpoint.newest(out) is not None, steps_logged(out / "log.jsonl")
    if not resume and (saved or logged):
        raise OutputError(f"{out} holds a run already; --resume goes on with it, or name another --out")
    if not saved and (out / "model").exists():
        raise OutputError(
            f"{out} holds a run whose checkpoints are gone: it cannot go on, and its model is not replaced; "
            "name another --out"
        )
    if saved and (out / "run.json").exists():
        # Read as a run, so that a field which is younger than the folder counts as its default.
        before = to_json(read_run(out / "run.json"))
        check_same(run, before | ({"precision": run.precision} if new_precision else {}), out)
    return saved


def is_run(out: Path) -> bool:
    """Whether a run of ours began in `out`."""
    try:
        if (out / "run.json").is_file():
            return {"recipe", "task", "optim"} <= read_json(out / "run.json").keys()
        if (out / "log.jsonl").is_file():
            return steps_logged(out / "log.jsonl") > 0 or (out / "log.jsonl").stat().st_size == 0
    except (OSError, ValueError):
        pass
    return False


def check_reports(out: Path, names: Iterable[str], run: Path | None = None) -> None:
    """Files that are written beside a run are those of this run, or not there yet.  Raises OutputError.

    Args:
        run: folder of the run that they belong to; by default `out`.
    """
    check_writable(out)
    there = [name for name in names if os.path.lexists(out / name)]
    if there and not is_run(run or out):
        raise OutputError(
            f"{out} holds {', '.join(there)}, but no run that they belong to; name another --out"
        )


def remove_run(out: Path) -> None:
    """Remove what a run wrote into its folder, and the folder if nothing else is in it."""
    for name in WRITTEN:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def check_same(run: Any, before: Mapping[str, Any], out: Path) -> None:
    """Raise InputError, naming a field, if `out` holds another run than `run`."""
    now, then = flat(to_json(run)), flat(before)
    derived = ("optim.warmup",) if now["optim.warmup_share"] else ()
    for name in sorted(now.keys() | then.keys()):
        if (
            name not in (*MAY_CHANGE, *derived)
            and not name.startswith("dev.")
            and now.get(name) != then.get(name)
        ):
            hint = f"--precision {now[name]} goes on so" if name == "precision" else "go on with the same"
            raise InputError(
                f"{out} holds another run: {name} was {then.get(name)}, now it is {now.get(name)}; "
                f"{hint}, or name another folder"
            )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A JSON tree as its leaves by dotted name; lists are leaves."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def read_run(path: Path) -> Run:
    """The run that a `run.json` holds, of the type that its task defines.

    Raises MissingFileError, or InputError for a file that holds none.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is no file; every run's folder holds a run.json")
    data = read_json(path)
    task = data.get("task", "pretrain") if isinstance(data, Mapping) else None
    if not isinstance(task, str):
        raise InputError(f"{path} holds no run: it must be a JSON object whose task is a name")
    kind = find("tasks", task).RUN
    try:
        run: Run = from_json(kind, data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return run
