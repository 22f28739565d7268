"""`xvlm caption`: captions of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from xvlm.cli.common.options import PREDICT_DEFAULTS, ImageArgument, Predict
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import printable
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig


def command(
    image: ImageArgument,
    generation: Annotated[GenerationConfig, tyro.conf.arg(name="")] = CAPTION_GENERATION,
    model: Path = Path("runs/captioning"),
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Generate a caption of an image, or several.

    Args:
        image: path or URL of an image.
        model: model folder, run folder or hub repository.
    """
    captions = options.predictor(model).image(image).captions(generation)
    if options.json:
        print_answer({"captions": captions}, options.json)
    else:
        print("\n".join(map(printable, captions)))
