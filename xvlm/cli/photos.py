"""`xvlm photos`: both stages of the photo recipe, from a folder of photographs to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.common.ranges import NonNegativeFloat, PositiveInt


def command(
    root: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]],
    out: Path = Path("runs/photos"),
    minutes: NonNegativeFloat = 115.0,
    seeds: PositiveInt = 1,
    held_out: PositiveInt = 300,
) -> None:
    """Train the photo recipe on a folder of photographs, evaluate it on `dev`, write the report.

    Args:
        root: folder with train.jsonl, dev.jsonl, dev_grounding.json and images.
        out: output folder; an interrupted run continues.
        minutes: time of each seed for caching features and training, over all sessions.
        seeds: number of runs that differ in their seed alone; their mean and deviation are reported.
        held_out: images of train.jsonl that are not trained on, but choose the weights of scores.
    """
    from xvlm.experiments.photos import run_photos

    run_photos(root, out, minutes, seeds, held_out)
