"""`xvlm ablate`: the ablation of the paper's claim."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from xvlm.common.ranges import NonNegativeFloat


def command(
    on: Literal["scenes", "photos"] = "scenes",
    root: Path = Path("photos"),
    out: Path = Path("runs/ablate"),
    minutes: NonNegativeFloat = 20.0,
) -> None:
    """Spend one budget on whole images, on regions, on both, and on both without the box loss.

    Args:
        on: training data.
        root: folder of the photos (see `xvlm train photos/pretrain`), for `--on photos`.
        out: output folder: one run for each variant, `table.md`, `table.json`, `ablation.svg`; an interrupted
            ablation continues.
        minutes: training time of each variant.
    """
    from xvlm.experiments.ablation import run_ablation

    run_ablation(on, root, out, minutes)
