"""`xvlm average`: the weighted mean of several models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.common.errors import printable
from xvlm.common.ranges import NonNegativeFloat


def command(
    models: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL [MODEL ...]")]],
    out: Path,
    weights: tuple[NonNegativeFloat, ...] = (),
) -> None:
    """Average the weights of models that were trained from one another.

    Args:
        models: model folders, run folders or hub repositories; the first one decides the heads of the result.
        out: model folder to write.
        weights: weight of each model, in any unit; by default all weigh the same.
    """
    from xvlm.models.checkpoints.average import average

    average(models, out, weights)
    print(printable(out))
