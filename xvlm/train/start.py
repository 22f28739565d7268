"""From a run's configuration to a trained model in a folder."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from xvlm import dist
from xvlm.data.limits import change_limits
from xvlm.errors import InputError, XVLMError, printable
from xvlm.jsonfile import read_json
from xvlm.lock import locked_by_main
from xvlm.lookup import find
from xvlm.machine import usable_precision
from xvlm.model.folder import MEASURED, Loaded, save_model
from xvlm.model.xvlm import XVLM
from xvlm.ranges import validate
from xvlm.run import Run, in_steps, write_json
from xvlm.tasks._build import Built, StemPlan
from xvlm.tasks._dev import Evaluation
from xvlm.train.checkpoint import State
from xvlm.train.loop import Evaluate, fit
from xvlm.train.run_folder import check_run_folder, read_run
from xvlm.train.stem_cache import kept_stem

__all__ = ["read_run", "say", "train"]

FEW = 16
"""Records that are measured to learn what the numbers are called."""


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
    new_precision: bool = False,
) -> tuple[Loaded, State]:
    """Train what `run` describes into `out`: `run.json`, `log.jsonl`, `checkpoints/`, `model/`.

    Args:
        resume: go on where the folder's newest checkpoint is.
        evaluate: numbers for the log from the model as it is, every `run.eval_every` steps and at the end.
        minutes: see `fit`.
        new_precision: go on in `run.precision`, though the folder's run had another.
    Raises:
        OutputError: the folder holds a run already and `resume` is not set, or something that no run wrote;
            another process works in it; it cannot be written.
        InputError: it holds another run than this one; or something in `run` cannot be.
    """
    dist.init()
    validate(run)
    if run.keep_best and evaluate is None:
        raise InputError(f"keep_best is {run.keep_best!r}, but nothing is measured; name a file in dev")
    change_limits(
        max_pixels=run.max_pixels,
        significant_bits=run.significant_bits,
        allow_remote=run.allow_remote,
        allow_private=run.allow_private,
    )
    run = replace(run, precision=usable_precision(run.precision, dist.device()))
    with ExitStack() as held:
        held.enter_context(locked_by_main(out))
        dist.on_main(lambda: begin(run, out, resume, new_precision))
        say(f"{run.recipe or run.task}: opening data, building the model")
        built = find("tasks", run.task).build(run, out)
        run = in_steps(run, built.feed.steps_an_epoch)
        validate(run)
        if run.optim.warmup > run.optim.steps:
            say(
                f"optim.warmup is {run.optim.warmup}: with {run.optim.steps} steps, lr never reaches its peak"
            )
        if built.stem is not None:
            dist.on_main(lambda: held.enter_context(keep(built.stem, built, run)))
        check_keep_best(evaluate, built, run.keep_best)
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
        dist.on_main(lambda: save_model(built.loaded, out / "model"))
    built.loaded.model.eval()
    return built.loaded, state


def begin(run: Run, out: Path, resume: bool, new_precision: bool) -> None:
    """Say whose the folder is, before anything else is written; see `check_run_folder`."""
    if not check_run_folder(run, out, resume, new_precision):
        write_json(out / "run.json", run)


def keep(plan: StemPlan, built: Built, run: Run) -> Any:
    """The feature cache of a run, filled and in use until the context ends."""
    vision = built.loaded.model.vision
    return kept_stem(vision, plan.sources, plan.folder, plan.views, plan.scale, run.workers)


def check_keep_best(evaluate: Evaluation | None, built: Built, keep_best: str) -> None:
    """Measure a few records before the first step, to see that there is a number of this name.

    Raises InputError with those that there are.
    """
    if evaluate is None or not keep_best:
        return
    model = built.task.to(dist.device()).eval()
    with torch.no_grad():
        known = few_numbers(evaluate, built.loaded)
    model.train()
    # A number of one split or label is only there when a record of it is.
    if not any(keep_best == name or keep_best.startswith(f"{name}_") for name in known):
        raise unknown_number(keep_best, known)


def few_numbers(evaluate: Evaluation, loaded: Loaded) -> dict[str, float]:
    """The numbers of a few records, or of all where an evaluation takes no limit or the few cannot do."""
    if "limit" in inspect.signature(evaluate).parameters:
        few: Callable[..., dict[str, float]] = evaluate
        try:
            return few(loaded, limit=FEW)
        except XVLMError:
            pass  # perhaps only the first ones are bad
    return evaluate(loaded)


def unknown_number(keep_best: str, known: dict[str, float]) -> InputError:
    """The error that lists what is measured."""
    return InputError(f"keep_best is {keep_best!r}; measured are {', '.join(sorted(known))}")


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
            raise unknown_number(keep_best, numbers)
        if keep_best:
            dist.on_main(lambda: keep_if_best(now, numbers, step))
        return numbers

    def keep_if_best(now: Loaded, numbers: dict[str, float], step: int) -> None:
        kept = out / "best" / MEASURED
        before = read_json(kept) if kept.exists() else {}
        if numbers[keep_best] > before.get(keep_best, -math.inf):
            save_model(now, out / "best", measured={"step": step, **numbers})

    return measure
