"""`xvlm ask`: visual question answering."""

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
    question: Positional[Annotated[str, tyro.conf.arg(metavar="QUESTION")]],
    answers: tuple[str, ...] | None = None,
    model: Path = Path("runs/vqa"),
    options: Predict = PREDICT_DEFAULTS,
) -> None:
    """Answer a question about an image.

    Args:
        image: path or URL of an image.
        question: the question.
        answers: choose among these answers; by default the answer is generated.
        model: model folder, run folder or hub repository.
    """
    best = options.predictor(model).image(image).ask_all(question, answers)
    answer, score = best[0]
    result = {"question": question, "answer": answer, "score": score}
    if options.json:
        listed = [{"answer": text, "score": probability} for text, probability in best]
        print_answer({**result, "best": listed}, options.json)
        return
    print_answer(result, options.json)
    for text, probability in best[1:]:
        print(f"{probability:.4f}  {printable(text)}")
