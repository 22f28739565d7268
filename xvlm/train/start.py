"""From a run's configuration to a trained model in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from xvlm import dist
from xvlm.lookup import find
from xvlm.model.folder import Loaded, save_model
from xvlm.run import Run, from_json
from xvlm.train.checkpoint import State
from xvlm.train.loop import fit
from xvlm.train.stem_cache import keep_stem

Evaluation = Callable[[Loaded], dict[str, float]]


def say(text: str) -> None:
    """One line to the person who watches, from the main process."""
    if dist.is_main():
        print(text, flush=True)


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
    """
    dist.init()
    if (out / "log.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} holds a run already; --resume goes on with it, or name another --out")
    say(f"{run.recipe or run.task}: opening data, building the model")
    built = find("tasks", run.task).build(run, out)
    if built.stem is not None and dist.is_main():
        plan = built.stem
        vision = built.loaded.model.vision
        keep_stem(vision, plan.sources, plan.folder, plan.views, plan.scale, run.workers, say)
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
        evaluate=None
        if evaluate is None
        else lambda model, step: evaluate(replace(built.loaded, model=model)),
        minutes=minutes,
    )
    if dist.is_main():
        save_model(built.loaded, out / "model")
    dist.barrier()
    built.loaded.model.eval()
    return built.loaded, state


def read_run(path: Path) -> Run:
    """The run that a `run.json` holds, of the type that its task defines."""
    data = json.loads(path.read_text())
    kind = find("tasks", data.get("task", "pretrain")).RUN
    run: Run = from_json(kind, data)
    return run
