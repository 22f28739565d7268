"""From a run's configuration to a trained model in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from xvlm import dist
from xvlm.data.limits import change_limits
from xvlm.errors import InputError, OutputError, printable
from xvlm.lookup import find
from xvlm.machine import usable_precision
from xvlm.model.folder import Loaded, save_model
from xvlm.model.xvlm import XVLM
from xvlm.run import Run, from_json, in_steps, to_json, write_json
from xvlm.tasks._dev import Evaluation
from xvlm.train.checkpoint import State
from xvlm.train.loop import Evaluate, fit
from xvlm.train.stem_cache import keep_stem


def say(text: str) -> None:
    """One line to the person who watches, from the main process."""
    if dist.is_main():
        print(printable(text, lines=True), flush=True)


def train(
    run: Any,
    out: Path,
    *,
    resume: bool = False,
    evaluate: Evaluation | None = None,
    minutes: float | None = None,
) -> tuple[Loaded, State]:
    """Train what `run` describes into `out`: `run.json`, `log.jsonl`, `checkpoints/`, `model/`.

    Args:
        resume: go on where the folder's newest checkpoint is.
        evaluate: numbers for the log from the model as it is, every `run.eval_every` steps and at the end.
        minutes: see `fit`.
    Raises:
        FileExistsError: the folder holds a run already and `resume` is not set.
        InputError: it holds another run than this one.
    """
    dist.init()
    change_limits(
        max_pixels=run.max_pixels,
        significant_bits=run.significant_bits,
        allow_remote=run.allow_remote,
        allow_private=run.allow_private,
    )
    run = replace(run, precision=usable_precision(run.precision, dist.device()))
    if (out / "log.jsonl").exists() and not resume:
        raise OutputError(f"{out} holds a run already; --resume goes on with it, or name another --out")
    if resume and (out / "run.json").exists():
        # Read as a run, so that a field which is younger than the folder counts as its default.
        check_same(run, to_json(read_run(out / "run.json")), out)
    say(f"{run.recipe or run.task}: opening data, building the model")
    built = find("tasks", run.task).build(run, out)
    run = in_steps(run, built.feed.steps_an_epoch)
    if built.stem is not None and dist.is_main():
        plan = built.stem
        vision = built.loaded.model.vision
        keep_stem(vision, plan.sources, plan.folder, plan.views, plan.scale, run.workers)
    dist.barrier()
    count = sum(p.numel() for p in built.loaded.model.parameters())
    say(f"{run.recipe or run.task}: {count / 1e6:.1f} M parameters, {run.optim.steps} steps -> {out}")
    state = fit(
        built.task,
        built.feed,
        run,
        out,
        loaded=built.given,
        resume=resume,
        evaluate=measuring(evaluate, built.loaded, out, run.keep_best),
        minutes=minutes,
    )
    if dist.is_main():
        save_model(built.loaded, out / "model")
    dist.barrier()
    built.loaded.model.eval()
    return built.loaded, state


def measuring(evaluate: Evaluation | None, loaded: Loaded, out: Path, keep_best: str) -> Evaluate | None:
    """`evaluate` for the loop; the model that has the highest `keep_best` so far is kept in `out/best`.

    Raises InputError, when it is measured, if there is no such number.
    """
    if evaluate is None:
        return None

    def measure(model: nn.Module, step: int) -> dict[str, float]:
        now = replace(loaded, model=cast(XVLM, model))
        numbers = evaluate(now)
        if keep_best and keep_best not in numbers:
            raise InputError(f"keep_best is {keep_best!r}; measured are {', '.join(sorted(numbers))}")
        if keep_best and dist.is_main():
            kept = out / "best" / "measured.json"
            before = json.loads(kept.read_text()) if kept.exists() else {}
            if numbers[keep_best] > before.get(keep_best, -math.inf):
                save_model(now, out / "best")
                write_json(kept, {"step": step, **numbers})
        return numbers

    return measure


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
            raise InputError(
                f"{out} holds another run: {name} was {then.get(name)}, now it is {now.get(name)}; "
                "go on with the same, or name another folder"
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
    """The run that a `run.json` holds, of the type that its task defines."""
    data = json.loads(path.read_text())
    kind = find("tasks", data.get("task", "pretrain")).RUN
    run: Run = from_json(kind, data)
    return run
