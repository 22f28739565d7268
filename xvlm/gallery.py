"""A model's answers as a report: right and wrong boxes, rankings both ways, curves and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xvlm.data.images import open_image
from xvlm.evaluate._candidates import Ranked
from xvlm.evaluate.grounding import GroundingPrediction
from xvlm.evaluate.retrieval import Retrieval
from xvlm.records import ImageData
from xvlm.report import (
    Curve,
    DrawnBox,
    GroundingExample,
    ImageRanking,
    Metric,
    TextRanking,
    curves_from_log,
    draw_box,
    read_log,
    write_report,
)
from xvlm.report.draw import PREDICTED_COLOUR, TRUE_COLOUR

LOSSES = {
    "loss": "all losses",
    "itc": "contrastive, images",
    "region_itc": "contrastive, regions",
    "itm": "matching, images",
    "region_itm": "matching, regions",
    "mlm": "masked words, images",
    "region_mlm": "masked words, regions",
    "bbox": "box, L1",
    "giou": "box, 1 - GIoU",
}


def picture(image: ImageData) -> Image.Image:
    """What was read, upright, to be shown."""
    return open_image(image, key="image").image


def grounding_examples(
    predictions: Sequence[GroundingPrediction], count: int, seed: int = 0
) -> list[GroundingExample]:
    """Drawn blindly, so that the page shows right and wrong as often as they are."""
    chosen = np.random.default_rng(seed).permutation(len(predictions))[:count]
    return [
        GroundingExample(picture(p.image), p.text, p.true_xyxy, p.predicted_xyxy, p.score, p.iou)
        for p in (predictions[i] for i in chosen)
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


def text_rankings(retrieval: Retrieval, count: int, first: int = 5, seed: int = 1) -> list[TextRanking]:
    """For a few images the best texts, and the first true one if it is not among them."""
    chosen = np.random.default_rng(seed).permutation(len(retrieval.images))[:count]
    rankings = []
    for i in chosen.tolist():
        shown = listed(retrieval.i2t, i, retrieval.texts_of(i), retrieval.top, first)
        texts = [(retrieval.texts[t], share, true) for t, share, true in shown]
        rankings.append(TextRanking(picture(retrieval.image(i)), texts))
    return rankings


def image_rankings(retrieval: Retrieval, count: int, first: int = 4, seed: int = 2) -> list[ImageRanking]:
    """For a few texts the best images, and the true one if it is not among them."""
    chosen = np.random.default_rng(seed).permutation(len(retrieval.texts))[:count]
    rankings = []
    for t in chosen.tolist():
        shown = listed(retrieval.t2i, t, [int(retrieval.image_T[t])], retrieval.top, first)
        images = [(picture(retrieval.image(i)), share, true) for i, share, true in shown]
        rankings.append(ImageRanking(retrieval.texts[t], images))
    return rankings


def listed(
    ranked: Ranked, query: int, true: Sequence[int], top: int, first: int
) -> list[tuple[int, float, bool]]:
    """The first candidates of a query, and the best true one behind them: (which, share, whether it is true).

    Shares are probabilities among those reranked; the others have none.
    """
    index = ranked.index_Qk[query].tolist()
    share = ranked.score_Qk[query, : top or None].double().softmax(0).tolist()
    shares = dict(zip(index, share, strict=False))
    shown = index[:first]
    if not set(shown) & set(true):
        shown.append(next((one for one in index if one in true), true[0]))
    return [(one, shares.get(one, 0.0), one in true) for one in shown]


def loss_curves(log: Path) -> list[Curve]:
    """The losses of a run's `log.jsonl`."""
    rows = read_log(log)
    present = {name for row in rows if "event" not in row for name in row}
    return curves_from_log(rows, {name: title for name, title in LOSSES.items() if name in present})


def write_gallery(
    path: Path,
    title: str,
    lead: str,
    summary: Sequence[Metric],
    metrics: Mapping[str, float],
    grounding: Sequence[GroundingPrediction],
    retrieval: Retrieval | None,
    log: Path | None,
    notes: Sequence[str] = (),
) -> Path:
    """`report.html` of a run: numbers, answers, curves."""
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return write_report(
        path,
        title,
        summary,
        loss_curves(log) if log else (),
        grounding_examples(grounding, 24),
        text_rankings(retrieval, 6) if retrieval else (),
        image_rankings(retrieval, 6) if retrieval else (),
        [*notes, f"All numbers: {numbers}."],
        lead=lead,
    )
