"""Training: from the configuration of a run to a trained model in a folder."""

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

from xvlm import distributed
from xvlm.common.errors import InputError, XVLMError, printable
from xvlm.common.hardware import deterministic_algorithms, usable_precision
from xvlm.common.json_file import read_json, to_json, write_json
from xvlm.common.ranges import validate
from xvlm.config import Run, resolve_steps
from xvlm.data.files.limits import change_limits
from xvlm.models.checkpoints.folder import MEASURED, ModelBundle, save_model
from xvlm.models.gpu.enable import release_graphs
from xvlm.models.xvlm import XVLM
from xvlm.registry import load_file, python_files
from xvlm.tasks.common.init import ModelRun, resolve_model
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import find_task
from xvlm.tasks.common.validation import Evaluation
from xvlm.training import elastic
from xvlm.training.checkpoint import TrainingState
from xvlm.training.feature_cache import feature_cache
from xvlm.training.forms import use_training_forms
from xvlm.training.loop import fit
from xvlm.training.run_folder import check_run_folder, read_run
from xvlm.training.trainer import Evaluate
from xvlm.training.watchdog import set_activity, watch_ranks

__all__ = ["log_on_main", "read_run", "train"]

FEW_RECORDS = 16
"""Records that are evaluated before training to learn the names of the metrics."""


def log_on_main(text: str) -> None:
    """Print a line from the main process."""
    if distributed.is_main():
        print(printable(text, lines=True), flush=True)


def train(
    run: Any,
    out: Path,
    *,
    resume: bool = False,
    evaluate: Evaluation | None = None,
    minutes: float | None = None,
    new_precision: bool = False,
) -> tuple[ModelBundle, TrainingState]:
    """Train a run into the folder `out`: `run.json`, `log.jsonl`, `checkpoints/`, `model/`.

    Args:
        resume: continue from the folder's newest checkpoint, if there is one.  A run that torchrun starts
            again continues in any case.
        evaluate: evaluates the model every `run.eval_every` steps and at the end; by default the task's.
        minutes: stop after this much training, over all sessions; see `fit`.
        new_precision: continue in `run.precision` although the folder's run had another.
    Raises:
        OutputError: the folder holds a run and `resume` is not set, or files that no run wrote; another
            process works in it; it cannot be written.
        InputError: the folder holds another run; or a setting of `run` is not possible.
    """
    distributed.init(run.collective_timeout)
    for path in python_files(to_json(replace(run, recipe=""))):
        load_file(path)
    validate(run)
    task = find_task(run.task)
    run = resolve_model(run)
    validate(run)
    evaluate = evaluate or task.evaluation(run)
    if run.eval_every and evaluate is None:
        raise InputError(
            f"eval_every is {run.eval_every}, which has no effect without data in validation; leave it out"
        )
    if run.best_metric and evaluate is None:
        raise InputError(
            f"best_metric is {run.best_metric!r}, but nothing is measured; name a file in validation"
        )
    change_limits(
        max_pixels=run.max_pixels,
        significant_bits=run.significant_bits,
        allow_remote=run.allow_remote,
        allow_private=run.allow_private,
        shard_cache=run.shard_cache,
        shard_cache_gb=run.shard_cache_gb,
    )
    run = replace(run, precision=usable_precision(run.precision, distributed.device()))
    name = run.recipe or run.task
    with ExitStack() as resources:
        resources.enter_context(distributed.folder_lock_on_main(out))
        resources.enter_context(deterministic_algorithms(run.deterministic))
        resources.enter_context(watch_ranks(run.collective_timeout))
        launchers = elastic.launchers()
        if distributed.broadcast_result(lambda: elastic.is_restart(out, launchers)):
            log_on_main(f"{name}: torchrun started the run again, which goes on in {out}")
            resume = True
        distributed.run_on_main(lambda: begin(run, out, resume, new_precision))
        distributed.run_on_main(lambda: elastic.record_launchers(out, launchers))
        log_on_main(f"{name}: opening data, building the model")
        setup = task.build(run, out)
        bundle = setup.bundle
        use_training_forms(setup.loss_module, run, distributed.device())
        if isinstance(run, ModelRun):
            run = replace(run, model=bundle.model.config)  # run.json records the model that is trained
        run = resolve_steps(run, setup.steps.steps_per_epoch)
        run = run if evaluate else replace(run, eval_every=0)
        validate(run)
        if run.optim.warmup_steps > run.optim.steps:
            log_on_main(
                f"optim.warmup_steps is {run.optim.warmup_steps}: with {run.optim.steps} steps, the learning "
                "rate never reaches its peak"
            )
        if setup.feature_cache is not None:
            set_activity("caching features")
            distributed.run_on_main(lambda: resources.enter_context(fill_cache(setup, run)))
        check_best_metric(evaluate, setup, run.best_metric)
        count = sum(parameter.numel() for parameter in bundle.model.parameters())
        log_on_main(f"{name}: {count / 1e6:.1f} M parameters, {run.optim.steps} steps -> {out}")
        state = fit(
            setup.loss_module,
            setup.steps,
            run,
            out,
            pretrained_names=setup.pretrained_names,
            resume=resume,
            evaluate=evaluation_in_loop(evaluate, bundle, out, run.best_metric),
            minutes=minutes,
        )
        bundle = replace(bundle, model=setup.loss_module.model)  # a sharded one was gathered
        release_graphs(bundle.model)
        distributed.run_on_main(lambda: save_model(bundle, out / "model"))
    bundle.model.eval()
    return bundle, state


def begin(run: Run, out: Path, resume: bool, new_precision: bool) -> None:
    """Mark the folder as this run's before anything else is written; see `check_run_folder`."""
    if not check_run_folder(run, out, resume, new_precision):
        write_json(out / "run.json", run)


def fill_cache(setup: TrainingSetup, run: Run) -> Any:
    """Return the context in which the run's cached features are complete and used."""
    vision, config = setup.bundle.model.vision, setup.feature_cache
    assert config is not None
    return feature_cache(vision, config.sources, config.folder, config.views, config.scale, run.workers)


def check_best_metric(evaluate: Evaluation | None, setup: TrainingSetup, best_metric: str) -> None:
    """Raise InputError, with the metrics that exist, if none is called `best_metric`.

    A few records are evaluated before the first step to find out.
    """
    if evaluate is None or not best_metric:
        return
    model = setup.loss_module.to(distributed.device()).eval()
    with torch.no_grad():
        metrics = evaluate_few(evaluate, setup.bundle)
    model.train()
    # The metric of one split or label only exists if one of its records is among the few.
    if not any(best_metric == name or best_metric.startswith(f"{name}_") for name in metrics):
        raise unknown_metric(best_metric, metrics)


def evaluate_few(evaluate: Evaluation, bundle: ModelBundle) -> dict[str, float]:
    """Evaluate a few records; all of them if `evaluate` takes no limit, or if the few are not enough."""
    if "limit" in inspect.signature(evaluate).parameters:
        limited: Callable[..., dict[str, float]] = evaluate
        try:
            return limited(bundle, limit=FEW_RECORDS)
        except XVLMError:
            pass  # perhaps only the first ones are unusable
    return evaluate(bundle)


def unknown_metric(best_metric: str, metrics: dict[str, float]) -> InputError:
    """Return the error that lists the metrics."""
    return InputError(f"best_metric is {best_metric!r}; measured are {', '.join(sorted(metrics))}")


def evaluation_in_loop(
    evaluate: Evaluation | None, bundle: ModelBundle, out: Path, best_metric: str
) -> Evaluate | None:
    """Wrap `evaluate` for the training loop; the model with the best metric so far is saved in `out/best`.

    The wrapped evaluation raises InputError if there is no such metric.
    """
    if evaluate is None:
        return None

    def evaluate_and_save(model: nn.Module, step: int) -> dict[str, float]:
        current = replace(bundle, model=cast(XVLM, model))
        metrics = evaluate(current)
        if best_metric and best_metric not in metrics:
            raise unknown_metric(best_metric, metrics)
        if best_metric:
            distributed.run_on_main(lambda: save_if_best(current, metrics, step))
        return metrics

    def save_if_best(current: ModelBundle, metrics: dict[str, float], step: int) -> None:
        path = out / "best" / MEASURED
        best = read_json(path) if path.exists() else {}
        if metrics[best_metric] > best.get(best_metric, -math.inf):
            save_model(current, out / "best", measured={"step": step, **metrics})

    return evaluate_and_save
