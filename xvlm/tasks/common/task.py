"""What a task consists of: a file in `xvlm/tasks`, or one of the user's own, defines one as `TASK`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xvlm import registry
from xvlm.common.errors import InputError
from xvlm.config import Run
from xvlm.evaluation.common.measure import Measure
from xvlm.models.xvlm import HeadSpec
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.validation import Evaluation, TaskValidation, task_validation


@dataclass(frozen=True)
class Task:
    """One task; `xvlm train`, `xvlm eval` and `xvlm predict` find it by the name of its file.

    Attributes:
        run: type of the task's runs; its defaults are the task's.
        build: (run, output folder) -> records, samples, model and losses, ready to train.
        measure: how the task is measured.
        validation: run -> what evaluates the model during training; by default `measure`, on the data of
            `run.validation`.
        heads: heads that the task adds to the model, by name.
        predict: (predictor, inputs, ...) -> an answer.  Its parameters after the first are the arguments of
            `xvlm predict`, with the help of its docstring.
    """

    run: type[Run]
    build: Callable[[Any, Path], TrainingSetup]
    measure: Measure | None = None
    validation: Callable[[Any], Evaluation | None] | None = None
    heads: Mapping[str, HeadSpec] = field(default_factory=dict)
    predict: Callable[..., Any] | None = None

    def evaluation(self, run: Any) -> Evaluation | None:
        """Return what evaluates the model during training; `None` if the run asks for nothing."""
        if self.validation:
            return self.validation(run)
        config = getattr(run, "validation", None)
        if self.measure and isinstance(config, TaskValidation):
            return task_validation(config, self.measure.evaluate)
        return None


def find_task(name: str) -> Task:
    """Return the task of this name, or in this file.

    Raises:
        UnknownNameError: there is none.
        InputError: the file defines no `TASK`.
    """
    found = getattr(registry.find("tasks", name), "TASK", None)
    if not isinstance(found, Task):
        raise InputError(f"{name} defines no task: it must hold TASK = Task(...)")
    return found


def measured_tasks() -> list[str]:
    """Return the names of the tasks that have a measure."""
    return [name for name in registry.names("tasks") if find_task(name).measure]


def predicting_tasks() -> list[str]:
    """Return the names of the tasks that have a prediction of their own."""
    return [name for name in registry.names("tasks") if find_task(name).predict]


def measure_of(name: str) -> Measure:
    """Return the measure of a task.  Raises InputError if it has none."""
    measure = find_task(name).measure
    if measure is None:
        raise InputError(f"task {name} has no measure; those that have one are {', '.join(measured_tasks())}")
    return measure
