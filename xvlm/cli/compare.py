"""`xvlm compare`: is a statement about two images true?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import PREDICT_DEFAULTS, Predict
from xvlm.cli.common.output import print_answer


def command(
    left: Positional[Annotated[str, tyro.conf.arg(metavar="LEFT")]],
    right: Positional[Annotated[str, tyro.conf.arg(metavar="RIGHT")]],
    statement: Positional[Annotated[str, tyro.conf.arg(metavar="STATEMENT")]],
    model: Path = Path("runs/nlvr2"),
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Compute the probability that a statement about two images is true.

    Args:
        left: path or URL of the left image.
        right: path or URL of the right image.
        statement: statement about both images.
        model: model folder, run folder or hub repository.
    """
    truth = options.predictor(model).compare(left, right, statement)
    print_answer({"statement": statement, "truth": truth}, options.json)
