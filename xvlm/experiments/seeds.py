"""Mean and standard deviation of metrics over runs that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xvlm.common.errors import InputError
from xvlm.common.json_file import write_json, write_text


@dataclass(frozen=True)
class OverSeeds:
    """A metric over several seeds.

    Attributes:
        values: its value for each seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Standard deviation of one seed (with N - 1 in the denominator); NaN for a single seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")

    def percent(self) -> str:
        """Format mean and deviation of a share in [0, 1] as percentages."""
        if len(self.values) == 1:
            return f"{100 * self.mean:.1f} %"
        return f"{100 * self.mean:.1f} ± {100 * self.deviation:.1f} %"


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, OverSeeds]:
    """Return each metric over the runs.

    Raises InputError if there is no run, or if they have different metrics.
    """
    if not runs:
        raise InputError("there is no run to take a mean of")
    for run in runs[1:]:
        if run.keys() != runs[0].keys():
            different = ", ".join(sorted(run.keys() ^ runs[0].keys()))
            raise InputError(f"the runs have different metrics: {different}")
    return {name: OverSeeds(tuple(run[name] for run in runs)) for name in runs[0]}


def write_seeds(out: Path, metrics: Mapping[str, OverSeeds], labels: Mapping[str, str], lead: str) -> None:
    """Write `seeds.json` with all metrics, and the table `seeds.md` of those with a label.

    Args:
        lead: sentence above the table.
    """
    write_json(
        out / "seeds.json",
        {
            name: {"mean": one.mean, "deviation": one.deviation, "values": one.values}
            for name, one in metrics.items()
        },
    )
    rows = [f"| {label} | {metrics[name].percent()} |" for name, label in labels.items() if name in metrics]
    table = "\n".join(["| measure | mean ± standard deviation of a seed |", "|---|---|", *rows])
    write_text(out / "seeds.md", f"{lead}\n\n{table}\n")
