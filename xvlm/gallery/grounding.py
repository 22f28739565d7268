"""Phrases with the true box and the one that the model found."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from xvlm.evaluate.grounding import GroundingPrediction
from xvlm.gallery._show import drawn, picture
from xvlm.report import DrawnBox, GroundingExample, Section, draw_box
from xvlm.report.draw import PREDICTED_COLOUR, TRUE_COLOUR
from xvlm.report.items import RIGHT_IOU

TILES = {
    "grounding_acc50": "phrases found (box overlap at least one half)",
    "grounding_acc50_inclusive": "the same, by inclusive pixels",
    "grounding_miou": "mean overlap",
}
"""Shares that stand at the top of the page."""


def sections(found: Sequence[GroundingPrediction]) -> list[Section]:
    """Cases drawn blindly, and more of the wrong ones."""
    wrong = [one for one in found if one.iou < RIGHT_IOU]
    return [
        Section("Where is it?", "Drawn blindly from all phrases.", grounding_examples(found, 12)),
        Section("Not found", "Drawn blindly from the wrong ones.", grounding_examples(wrong, 12, seed=1)),
    ]


def grounding_examples(
    predictions: Sequence[GroundingPrediction], count: int, seed: int = 0
) -> list[GroundingExample]:
    """Some of them, drawn blindly from those whose box is made of numbers."""
    drawable = [p for p in predictions if all(map(math.isfinite, p.predicted_xyxy))]
    return [
        GroundingExample(picture(p.image), p.text, p.true_xyxy, p.predicted_xyxy, p.score, p.iou)
        for p in drawn(drawable, count, seed)
    ]


def contact_sheet(examples: Sequence[GroundingExample], columns: int = 4, side: int = 240) -> Image.Image:
    """Examples side by side, each under its phrase: the true box dashed, the predicted one solid."""
    rows = -(-len(examples) // columns)
    caption = 24
    sheet = Image.new("RGB", (columns * side, rows * (side + caption)), "white")
    font = ImageFont.load_default(13)
    for number, example in enumerate(examples):
        x, y = number % columns * side, number // columns * (side + caption)
        scale = (side / example.image.width, side / example.image.height) * 2
        boxes = [(example.true_xyxy, TRUE_COLOUR, True), (example.predicted_xyxy, PREDICTED_COLOUR, False)]
        drawn = [
            DrawnBox(tuple(edge * s for edge, s in zip(box, scale, strict=True)), "", colour, dashed)  # type: ignore[arg-type]
            for box, colour, dashed in boxes
            if box is not None
        ]
        sheet.paste(
            draw_box(example.image.resize((side, side), Image.Resampling.BICUBIC), drawn), (x, y + caption)
        )
        ImageDraw.Draw(sheet).text((x + 4, y + 4), example.phrase, fill="black", font=font)
    return sheet
