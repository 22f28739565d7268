"""Numbers of a run for Weights & Biases or MLflow, beside its own log; the run of either is continued."""

from __future__ import annotations

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError, MissingPackageError, first_line
from xvlm.common.json_file import read_json, to_json, write_json
from xvlm.common.terminal import print_notice
from xvlm.config import flatten

PROJECT = "xvlm"
"""Name of the project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another one."""
_LONGEST = 500  # characters of a parameter that MLflow takes


class Tracker(ABC):
    """What receives numbers.  Its failure does not end the training: `log.jsonl` has all of them."""

    name: str
    errors: tuple[type[Exception], ...] = ()
    """What the package raises if it refuses, or if its server cannot be reached."""
    failed = False

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        """Begin the run of an output folder, or continue it."""
        try:
            self.begin(out, config)
        except ImportError as error:
            hint = f"pip install 'xvlm[tracking]' ({error})"
            raise MissingPackageError(f"trackers {self.name!r} needs the extra: {hint}") from error
        except self.errors as error:
            raise InputError(f"trackers {self.name!r} cannot begin: {first_line(error)}") from error

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values of a step that are numbers, unless an earlier step failed."""
        scalars = {name: float(one) for name, one in values.items() if isinstance(one, int | float)}
        try:
            if not self.failed:
                self.log(step, scalars)
        except self.errors as error:
            self.failed = True
            found = first_line(error)
            print_notice(f"{self.name} gets no numbers from step {step} on; log.jsonl has them: {found}")

    def close(self) -> None:
        """End the run."""
        try:
            self.end()
        except self.errors as error:
            print_notice(f"{self.name} did not end the run: {first_line(error)}")

    @abstractmethod
    def begin(self, out: Path, config: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    @abstractmethod
    def end(self) -> None: ...


class WandbTracker(Tracker):
    """A run of Weights & Biases, whose environment variables hold; `wandb.json` has its id."""

    name = "wandb"

    def begin(self, out: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.errors = (wandb.errors.Error,)
        path = out / "wandb.json"
        number = read_json(path)["id"] if path.is_file() else uuid.uuid4().hex[:16]
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project, name=out.name, id=number, resume="allow", dir=str(out), config=dict(config)
        )
        write_json(path, {"id": number})

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        # There, the numbers of a step that a run repeats are left out.
        self._run.log(dict(scalars), step=step)

    def end(self) -> None:
        self._run.finish()


class MlflowTracker(Tracker):
    """A run of MLflow, at MLFLOW_TRACKING_URI or in `mlruns`; `mlflow.json` in its folder has its id."""

    name = "mlflow"

    def begin(self, out: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven take minutes without training
        # The small package has no data base; the newest ones write files only if that is allowed.
        os.environ.setdefault("MLFLOW_TRACKING_URI", Path("mlruns").absolute().as_uri())
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow

        self._mlflow, self.errors = mlflow, (mlflow.MlflowException,)
        path = out / "mlflow.json"
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if path.is_file():
            mlflow.start_run(run_id=read_json(path)["run_id"])
            return
        run = mlflow.start_run(run_name=out.name)
        write_json(path, {"run_id": run.info.run_id})
        mlflow.log_params({key: str(value)[:_LONGEST] for key, value in flatten(config).items()})

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        # The names of MLflow have letters, digits and a few signs.
        allowed = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in scalars.items()}
        self._mlflow.log_metrics(allowed, step=step)

    def end(self) -> None:
        self._mlflow.end_run()


def open_trackers(names: Sequence[str], out: Path, config: Any) -> list[Tracker]:
    """Begin or continue the run of each tracker.

    Raises:
        MissingPackageError: its package is missing.
        InputError: it refuses, or its server cannot be reached.
    """
    kinds: tuple[type[Tracker], ...] = (WandbTracker, MlflowTracker)
    return [kind(out, to_json(config)) for kind in kinds if kind.name in names]
