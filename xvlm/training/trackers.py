"""Numbers of a run for Weights & Biases or MLflow, beside its own log; the run of either is continued."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xvlm.common.errors import InputError, MissingPackageError, first_line
from xvlm.common.json_file import read_json, to_json, write_json
from xvlm.common.terminal import print_notice

PROJECT = "xvlm"
"""Name of the project or experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another one."""


class Tracker(Protocol):
    """What receives numbers."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step."""

    def close(self) -> None:
        """End the run."""


class WandbTracker:
    """A run of Weights & Biases; its environment variables (WANDB_MODE, WANDB_PROJECT, ...) hold."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb", error) from error
        self.errors: tuple[type[Exception], ...] = (wandb.errors.Error,)
        # The same folder is the same run, so that one that goes on does not become two.
        number = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=out.name,
                id=number,
                resume="allow",
                dir=str(out),
                config=dict(config),
            )
        except self.errors as error:
            raise _cannot_begin("wandb", error) from error

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step; there, those of a step that a run repeats are left out."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow, at MLFLOW_TRACKING_URI; `mlflow.json` in the run's folder has its id."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault(
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
        )  # seven take minutes, in which nothing trains
        try:
            import mlflow
        except ImportError as error:
            raise _missing("mlflow", error) from error
        self._mlflow = mlflow
        self.errors: tuple[type[Exception], ...] = (mlflow.MlflowException,)
        try:
            self._begin(out / "mlflow.json", out.name, config)
        except self.errors as error:
            raise _cannot_begin("mlflow", error) from error

    def _begin(self, path: Path, name: str, config: Mapping[str, Any]) -> None:
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if path.is_file():
            self._mlflow.start_run(run_id=read_json(path)["run_id"])
            return
        run = self._mlflow.start_run(run_name=name)
        write_json(path, {"run_id": run.info.run_id})
        self._mlflow.log_params({key: str(value)[:_LONGEST] for key, value in _flat(config)})

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._mlflow.log_metrics({_metric_name(name): value for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


_LONGEST = 500
"""Characters of a parameter that MLflow takes."""
_KINDS: dict[str, type[WandbTracker] | type[MlflowTracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


class _Forgiving:
    """A tracker whose failure does not end the training: `log.jsonl` has all numbers."""

    def __init__(self, name: str, tracker: WandbTracker | MlflowTracker) -> None:
        self._name, self._tracker = name, tracker
        self._failed = False

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step, unless an earlier step failed."""
        if self._failed:
            return
        try:
            self._tracker.add(step, scalars)
        except self._tracker.errors as error:
            self._failed = True
            print_notice(
                f"{self._name} gets no numbers from step {step} on; log.jsonl has them: {first_line(error)}"
            )

    def close(self) -> None:
        """End the run."""
        try:
            self._tracker.close()
        except self._tracker.errors as error:
            print_notice(f"{self._name} did not end the run: {first_line(error)}")


def open_trackers(names: Sequence[str], out: Path, config: Any) -> list[Tracker]:
    """Begin or continue the run of each tracker.

    Raises:
        MissingPackageError: its package is missing.
        InputError: it refuses, or its server cannot be reached.
    """
    return [_Forgiving(name, _KINDS[name](out, to_json(config))) for name in names]


def numbers_only(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers."""
    return {name: float(one) for name, one in values.items() if isinstance(one, int | float)}


def _missing(name: str, error: ImportError) -> MissingPackageError:
    return MissingPackageError(f"trackers {name!r} needs the extra: pip install 'xvlm[tracking]' ({error})")


def _cannot_begin(name: str, error: Exception) -> InputError:
    return InputError(f"trackers {name!r} cannot begin: {first_line(error)}")


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return (dotted name, value) of a nested configuration."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        inner = isinstance(value, Mapping)
        found += _flat(value, f"{before}{name}.") if inner else [(f"{before}{name}", value)]
    return found


def _metric_name(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, _, -, ., space and /."""
    return "".join(one if one.isalnum() or one in "_-. /" else "_" for one in name)
