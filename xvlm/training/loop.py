"""The only training loop.  It knows no model: train a step, log, save, evaluate, stop."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from xvlm import distributed
from xvlm.common.atomic import AppendFile
from xvlm.common.json_file import read_json, write_json
from xvlm.common.outputs import check_free_space
from xvlm.common.terminal import print_notice
from xvlm.config import Run
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.workers import WorkerStream
from xvlm.tasks.common.loss_module import LossModule
from xvlm.training.checkpoint import TrainingState, estimate_bytes
from xvlm.training.log import RunLog
from xvlm.training.starvation import StarvationNotice
from xvlm.training.step_numbers import LateReader, StepNumbers
from xvlm.training.trackers import open_trackers
from xvlm.training.trainer import Evaluate, Trainer
from xvlm.training.watchdog import set_activity


@dataclass(frozen=True)
class LogRow:
    """What the log says of a step besides its losses.

    Attributes:
        step: number of steps done, this one included.
        images: images of the step, of all ranks.
        waited_s: seconds that the training process waited for the step's data.
        rest_s: seconds that it spent on the rest of the step.
        seconds: training time so far, over all sessions.
    """

    step: int
    images: int
    waited_s: float
    rest_s: float
    seconds: float


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; its last step is saved."""


def fit(
    loss_module: LossModule,
    step_data: StepDataset,
    run: Run,
    out: Path,
    *,
    pretrained_names: Collection[str] = (),
    resume: bool = False,
    evaluate: Evaluate | None = None,
    minutes: float | None = None,
) -> TrainingState:
    """Train `loss_module.model`.  Afterwards it is whole, and holds the averaged weights if there are any.

    Args:
        pretrained_names: names of the model's parameters that a checkpoint provided.
        resume: whether to continue, bit for bit, from the newest checkpoint in `out`, if there is one.
        minutes: time limit over all sessions, after which the run stops with a checkpoint.
    Raises:
        Interrupted: Ctrl-C or SIGTERM stopped the run; its last step is saved.
        NotFiniteError: a weight or a loss is not finite; `bad_step_rank*.json` holds the keys of the batch.
        OutputError: an output cannot be written; earlier checkpoints are intact.
    """
    trainer = Trainer(loss_module, run, out, pretrained_names, resume, step_data.has_separate_steps)
    state, last_step = trainer.state, run.optim.steps
    distributed.run_on_main(lambda: record_run(trainer))
    trackers = partial(open_trackers, run.trackers, out, run)
    log = RunLog(out, state.step, last_step, run.recipe or run.task, open_trackers=trackers)

    def write_row(numbers: StepNumbers, row: LogRow) -> None:
        values, total = trainer.read(numbers), row.waited_s + row.rest_s
        waited = numbers.idle_s(row.waited_s)
        starvation.add(waited, total)
        if row.step % max(1, run.log_every) == 0:
            timing = {"images_per_s": row.images / total, "data_share": waited / total}
            log.step(row.step, {**values, "seconds": row.seconds, **timing})

    session_start, seconds_before = time.monotonic(), state.seconds
    pin_memory, starvation = trainer.device.type == "cuda", StarvationNotice(run.workers)
    # Signals are caught before the workers start: an exception while they are forked would be lost.
    with (
        StopSignal() as stop,
        closing(log),
        closing(LateReader(write_row)) as unread,
        WorkerStream(step_data, range(state.step, last_step), run.workers, pin_memory) as steps,
    ):
        loss_module.train()
        was_due = trainer.is_resumed and is_evaluated(run, state.step)
        if evaluate and was_due and not log.has_event(state.step, "eval"):
            # The run stopped between its checkpoint and the evaluation.
            set_activity(f"evaluating after step {state.step}")
            log.event(state.step, "eval", trainer.evaluate(evaluate))
        while state.step < last_step:
            set_activity(f"reading the data of step {state.step + 1}", is_limited=True)
            t0 = time.monotonic()
            data = next(steps)
            set_activity(f"computing step {state.step + 1}", is_limited=True)
            t1 = time.monotonic()
            numbers = trainer.train_step(data)
            unread.read()  # of the step before, for which this waits
            t2 = time.monotonic()
            state.seconds = seconds_before + t2 - session_start
            images = distributed.world_size() * sum(len(keys) for keys in data.keys.values())
            unread.add(numbers, LogRow(state.step, images, t1 - t0, t2 - t1, state.seconds))
            if not trainer.reads_late:
                unread.read()

            is_late = minutes is not None and state.seconds > 60 * minutes
            interrupted, is_late = on_any_rank([stop.is_requested, is_late], state.step)
            evaluate_now = evaluate is not None and not interrupted and is_evaluated(run, state.step)
            if interrupted or is_late or evaluate_now or is_saved(run, state.step):
                unread.read()
                set_activity(f"saving step {state.step}")
                log.flush()
                trainer.save()
            if interrupted:
                trainer.wait_for_checkpoint()
                raise Interrupted(
                    f"stopped after step {state.step} of {last_step}; "
                    f"it is saved in {out} and --resume goes on"
                )
            if evaluate and evaluate_now:
                set_activity(f"evaluating after step {state.step}")
                log.event(state.step, "eval", trainer.evaluate(evaluate))
            if is_late:
                break
    set_activity("finishing")
    trainer.finish()
    return state


def record_run(trainer: Trainer) -> None:
    """Write `run.json`, after checking that the disk has space for a checkpoint."""
    run, out, step = trainer.run, trainer.out, trainer.state.step
    if step < run.optim.steps:
        check_free_space(out, estimate_bytes(trainer.model, trainer.average), "a checkpoint")
    path = out / "run.json"
    before = read_json(path).get("precision") if step and path.exists() else run.precision
    if before != run.precision:
        print_notice(f"{out}: goes on in {run.precision} after {step} steps in {before}")
        row = {"step": step, "event": "precision", "before": before, "now": run.precision}
        with closing(AppendFile(out / "log.jsonl")) as log:
            log.write((json.dumps(row) + "\n").encode())
    write_json(path, run)


def is_evaluated(run: Run, step: int) -> bool:
    """Return whether the model is evaluated after `step` steps."""
    return step == run.optim.steps or bool(run.eval_every and step % run.eval_every == 0)


def is_saved(run: Run, step: int) -> bool:
    """Return whether a checkpoint is due after `step` steps."""
    return step == run.optim.steps or bool(run.save_every and step % run.save_every == 0)


class StopSignal:
    """Catches Ctrl-C and SIGTERM: the run stops after the current step.  A second signal stops it at once."""

    def __init__(self) -> None:
        self.is_requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True


def on_any_rank(flags: list[bool], step: int) -> list[bool]:
    """Return for each flag whether any rank has set it.

    Several ranks have to wait for each other, so they exchange flags every 20 steps; otherwise all are False.
    """
    if distributed.world_size() == 1:
        return flags
    if step % 20:
        return [False] * len(flags)
    return [any(of_ranks) for of_ranks in zip(*distributed.gather_objects(flags), strict=True)]
