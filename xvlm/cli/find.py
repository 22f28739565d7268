"""`xvlm find`: everything in an image that phrases describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import PREDICT_DEFAULTS, Flag, ImageArgument, Predict
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import printable
from xvlm.common.ranges import Probability


def command(
    image: ImageArgument,
    phrases: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PHRASE [PHRASE ...]")]],
    model: Path = Path("runs/demo"),
    min_probability: Probability = 0.5,
    noun_phrases: Flag = False,
    draw: Path | None = None,
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Find everything in an image that each phrase describes: several things, one, or nothing.

    Args:
        image: path or URL of an image.
        phrases: one or more phrases.
        model: model folder, run folder or hub repository.
        min_probability: smallest probability of what is printed.
        noun_phrases: find the noun phrases of each text, instead of the text as a whole.
        draw: image file that gets the image with the boxes.
    """
    from xvlm.data.images.user_images import open_user_image
    from xvlm.reports import BoxAnnotation, draw_boxes
    from xvlm.reports.pictures import check_picture_output, save_picture

    if draw is not None:
        check_picture_output(draw, image)
    photo = options.predictor(model).image(image)
    if noun_phrases:
        parts = [part for text in phrases for part in photo.find_all(text, min_probability)]
        answers = [(part.text, part.found) for part in parts]
    else:
        answers = list(zip(phrases, photo.find_many(phrases, min_probability), strict=True))
    if draw is not None:
        boxes = [
            BoxAnnotation(one.box_xyxy, f"{phrase} {one.score:.2f}") for phrase, own in answers for one in own
        ]
        save_picture(draw_boxes(open_user_image(image).image, boxes), draw)
    if options.json:
        found = [
            {
                "phrase": phrase,
                "found": [
                    {"box_xyxy": [round(edge, 2) for edge in one.box_xyxy], "score": one.score} for one in own
                ],
            }
            for phrase, own in answers
        ]
        print_answer({"phrases": found}, as_json=True)
        return
    for phrase, own in answers:
        if not own:
            print(f"none    {printable(phrase)}")
        for one in own:
            print(f"{one.score:.4f}  {printable(phrase)}  {[round(edge, 2) for edge in one.box_xyxy]}")
