"""`xvlm ablate`: the ablation of the paper's claim."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from xvlm.common.ranges import NonNegativeFloat, PositiveInt


def command(
    on: Literal["scenes", "photos"] = "scenes",
    root: Path = Path("photos"),
    out: Path = Path("runs/ablate"),
    minutes: NonNegativeFloat = 20.0,
    seeds: PositiveInt = 1,
) -> None:
    """Spend one budget on whole images, on regions, on both, and on both without the box loss.

    The budget is time; then the others are given as many images as both see in it.

    Args:
        on: training data.
        root: folder of the photos (see `xvlm train photos/pretrain`), for `--on photos`.
        out: output folder: one run for each variant and seed, `table.md`, `table.json`, `ablation.svg`; an
            interrupted ablation continues.
        minutes: training time of each variant.
        seeds: number of runs of each variant that differ in their seed alone.
    """
    from xvlm.experiments.ablation import run_ablation

    run_ablation(on, root, out, minutes, seeds)
