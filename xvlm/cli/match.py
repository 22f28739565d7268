"""`xvlm match`: how well texts describe an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import PREDICT_DEFAULTS, ImageArgument, Predict
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import printable


def command(
    image: ImageArgument,
    texts: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]],
    model: Path = Path("runs/demo"),
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Compute the probability that each text describes an image.

    Args:
        image: path or URL of an image.
        texts: one or more texts.
        model: model folder, run folder or hub repository.
    """
    scores = options.predictor(model).image(image).match(texts)
    if options.json:
        print_answer({"scores": dict(zip(texts, scores, strict=True))}, options.json)
    else:
        for text, score in sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1]):
            print(f"{score:.4f}  {printable(text)}")
