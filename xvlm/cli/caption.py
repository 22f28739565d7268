"""`xvlm caption`: captions of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from xvlm.cli.common.options import PREDICT_DEFAULTS, ImageArgument, Predict
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import printable
from xvlm.common.ranges import FiniteFloat
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig


def command(
    image: ImageArgument,
    generation: Annotated[GenerationConfig, tyro.conf.arg(name="")] = CAPTION_GENERATION,
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None,
    model: Path = Path("runs/captioning"),
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Generate a caption of an image, or of a region of it, or several.

    Args:
        image: path or URL of an image.
        box: region to describe: left, top, right and bottom edge in pixels.
        model: model folder, run folder or hub repository.
    """
    captions = options.predictor(model).image(image).captions(generation, box)
    if options.json:
        print_answer({"captions": captions}, options.json)
    else:
        print("\n".join(map(printable, captions)))
