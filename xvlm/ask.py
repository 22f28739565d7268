"""Questions about images from a shell: where is it, does it fit, what does the image show?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from xvlm.data.limits import change_limits
from xvlm.errors import printable
from xvlm.model.decoding import CAPTION, Decoding
from xvlm.ranges import PositiveInt, SignificantBits
from xvlm.run import json_text

Json = Annotated[bool, tyro.conf.arg(help="print JSON")]
MaxPixels = Annotated[PositiveInt, tyro.conf.arg(help="largest image that is read, in pixels")]
Bits = Annotated[SignificantBits, tyro.conf.arg(help="of a 16-bit image; 0: seen from its values")]
Device = Annotated[
    str | None, tyro.conf.arg(help="cpu, cuda or cuda:NUMBER; by default the GPU where there is one")
]


def ground(
    image: Positional[str],
    phrase: Positional[str],
    model: Path = Path("runs/demo"),
    draw: Path | None = None,
    json: Json = False,
    max_pixels: MaxPixels = 100_000_000,
    significant_bits: Bits = 0,
    device: Device = None,
) -> None:
    """Where is this phrase in the image?

    Args:
        image: path or URL of an image.
        phrase: what to look for.
        model: model folder, run folder or hub repository.
        draw: write the image with the box to this file.
    """
    from xvlm.data.user_images import open_any
    from xvlm.gallery._show import check_picture_output, save_picture
    from xvlm.predict import Predictor
    from xvlm.report import DrawnBox, draw_box

    change_limits(max_pixels=max_pixels, significant_bits=significant_bits)
    if draw is not None:
        check_picture_output(draw, image)
    box, score = Predictor.load(model, device).image(image).ground(phrase)
    if draw is not None:
        label = phrase if math.isnan(score) else f"{phrase} {score:.2f}"
        save_picture(draw_box(open_any(image).image, [DrawnBox(box, label)]), draw)
    show({"phrase": phrase, "box_xyxy": [round(edge, 2) for edge in box], "score": score}, json)


def match(
    image: Positional[str],
    texts: Positional[tuple[str, ...]],
    model: Path = Path("runs/demo"),
    json: Json = False,
    max_pixels: MaxPixels = 100_000_000,
    significant_bits: Bits = 0,
    device: Device = None,
) -> None:
    """How well does each text describe the image?

    Args:
        image: path or URL of an image.
        texts: one or more.
        model: model folder, run folder or hub repository.
    """
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels, significant_bits=significant_bits)
    scores = Predictor.load(model, device).image(image).match(texts)
    if json:
        show({"scores": dict(zip(texts, scores, strict=True))}, json)
    else:
        for text, score in sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1]):
            print(f"{score:.4f}  {printable(text)}")


def caption(
    image: Positional[str],
    decoding: Annotated[Decoding, tyro.conf.arg(name="")] = CAPTION,
    model: Path = Path("runs/captioning"),
    json: Json = False,
    max_pixels: MaxPixels = 100_000_000,
    significant_bits: Bits = 0,
    device: Device = None,
) -> None:
    """What does the image show?

    Args:
        image: path or URL of an image.
        model: model folder, run folder or hub repository.
    """
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels, significant_bits=significant_bits)
    found = Predictor.load(model, device).image(image).captions(decoding)
    if json:
        show({"captions": found}, json)
    else:
        print("\n".join(map(printable, found)))


def ask(
    image: Positional[str],
    question: Positional[str],
    answers: tuple[str, ...] | None = None,
    model: Path = Path("runs/vqa"),
    json: Json = False,
    max_pixels: MaxPixels = 100_000_000,
    significant_bits: Bits = 0,
    device: Device = None,
) -> None:
    """Answer a question about the image.

    Args:
        image: path or URL of an image.
        question: what to ask.
        answers: choose among these; by default the answer is written freely.
        model: model folder, run folder or hub repository.
    """
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels, significant_bits=significant_bits)
    best = Predictor.load(model, device).image(image).ask_all(question, answers)
    answer, score = best[0]
    if json:
        listed = [{"answer": text, "score": share} for text, share in best]
        show({"question": question, "answer": answer, "score": score, "best": listed}, json)
        return
    show({"question": question, "answer": answer, "score": score}, json)
    for text, share in best[1:]:
        print(f"{share:.4f}  {printable(text)}")


def compare(
    left: Positional[str],
    right: Positional[str],
    statement: Positional[str],
    model: Path = Path("runs/nlvr2"),
    json: Json = False,
    max_pixels: MaxPixels = 100_000_000,
    significant_bits: Bits = 0,
    device: Device = None,
) -> None:
    """Is this statement about two images true?

    Args:
        left: path or URL of an image.
        right: the same of the other one.
        statement: about both.
        model: model folder, run folder or hub repository.
    """
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels, significant_bits=significant_bits)
    truth = Predictor.load(model, device).compare(left, right, statement)
    show({"statement": statement, "truth": truth}, json)


def show(value: dict[str, Any], as_json: bool) -> None:
    """JSON on one line, or a name and value a line."""
    if as_json:
        print(json_text(value))
        return
    for name, item in value.items():
        if isinstance(item, float) and math.isnan(item):
            item = "none"
        print(f"{name:10} {item:.4f}" if isinstance(item, float) else f"{name:10} {printable(item)}")
