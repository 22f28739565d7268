"""`xvlm ground`: the box of a phrase in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import PREDICT_DEFAULTS, ImageArgument, Predict
from xvlm.cli.common.output import print_answer


def command(
    image: ImageArgument,
    phrase: Positional[Annotated[str, tyro.conf.arg(metavar="PHRASE")]],
    model: Path = Path("runs/demo"),
    draw: Path | None = None,
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Find the box of a phrase in an image.

    Args:
        image: path or URL of an image.
        phrase: description of an object or region.
        model: model folder, run folder or hub repository.
        draw: image file that gets the image with the box.
    """
    from xvlm.data.images.user_images import open_user_image
    from xvlm.reports import BoxAnnotation, draw_boxes
    from xvlm.reports.pictures import check_picture_output, save_picture

    if draw is not None:
        check_picture_output(draw, image)
    box, score = options.predictor(model).image(image).ground(phrase)
    if draw is not None:
        label = phrase if score is None else f"{phrase} {score:.2f}"
        save_picture(draw_boxes(open_user_image(image).image, [BoxAnnotation(box, label)]), draw)
    answer = {"phrase": phrase, "box_xyxy": [round(edge, 2) for edge in box], "score": score}
    print_answer(answer, options.json)
