"""Numbers of a run for Weights & Biases or MLflow, beside its own log; the run of either is continued."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xvlm.common.errors import MissingPackageError
from xvlm.common.json_file import read_json, to_json, write_json

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
        # The same folder is the same run, so that one that goes on does not become two.
        number = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=out.name,
            id=number,
            resume="allow",
            dir=str(out),
            config=dict(config),
        )

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step; there, those of a step that a run repeats are left out."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow, at MLFLOW_TRACKING_URI; `mlflow.json` in the run's folder has its id."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise _missing("mlflow", error) from error
        self._mlflow = mlflow
        path = out / "mlflow.json"
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if path.is_file():
            self._run = mlflow.start_run(run_id=read_json(path)["run_id"])
            return
        self._run = mlflow.start_run(run_name=out.name)
        write_json(path, {"run_id": self._run.info.run_id})
        parameters = {name: str(value)[:_LONGEST] for name, value in _flat(config)}
        mlflow.log_params(parameters)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._mlflow.log_metrics({_metric_name(name): value for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


_LONGEST = 500
"""Characters of a parameter that MLflow takes."""
_KINDS: dict[str, type[WandbTracker] | type[MlflowTracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


def open_trackers(names: Sequence[str], out: Path, config: Any) -> list[Tracker]:
    """Begin or continue the run of each tracker.  Raises MissingPackageError if its package is missing."""
    return [_KINDS[name](out, to_json(config)) for name in names]


def numbers_only(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers."""
    return {name: float(one) for name, one in values.items() if isinstance(one, int | float)}


def _missing(name: str, error: ImportError) -> MissingPackageError:
    return MissingPackageError(f"trackers {name!r} needs the extra: pip install 'xvlm[tracking]' ({error})")


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
