"""Renders the items of a report as HTML; every text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from xvlm.common.errors import InputError
from xvlm.reports.curves import Curve, curve_svg
from xvlm.reports.draw import (
    CANDIDATE_COLOUR,
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    BoxAnnotation,
    data_uri,
    overlay_heatmap,
    thumbnail,
)
from xvlm.reports.items import (
    AnswerExample,
    DetectionExample,
    GroundingExample,
    ImageRanking,
    Item,
    Metric,
    Table,
    TextRanking,
)
from xvlm.reports.reliability import ReliabilityDiagram, reliability_svg
from xvlm.reports.svg import format_column, format_number

_LARGE, _SMALL = 520, 220  # pixels; about twice the displayed size, for screens of high resolution
_CHECK = '<span class="good">✓</span> '


def card(item: Item, position: int = 0) -> str:
    """Render one item; `position` within its section gives a curve its colour."""
    match item:
        case GroundingExample():
            return _grounding(item)
        case DetectionExample():
            return _detection(item)
        case ReliabilityDiagram():
            return f'<figure class="card plot">{reliability_svg(item)}</figure>'
        case TextRanking():
            return _text_ranking(item)
        case ImageRanking():
            return _image_ranking(item)
        case AnswerExample():
            return _answer(item)
        case Curve():
            return f'<figure class="card plot">{curve_svg(item, position)}</figure>'
        case Table():
            return f'<div class="card scroll">{table(item.rows, item.header)}</div>'
        case str():
            return f"<p>{escape(item)}</p>"


def grid_class(item: Item) -> str:
    """Return the CSS class of the grid that holds an item; adjacent items of one class share a grid."""
    return "stack" if isinstance(item, (str, Table, ImageRanking)) else "grid"


def tile(metric: Metric) -> str:
    """Render a metric: a large number with its label, and its target with a verdict if it has one."""
    value = metric.value if isinstance(metric.value, str) else format_number(metric.value)
    target = ""
    if metric.target is not None:
        wanted = metric.target if isinstance(metric.target, str) else format_number(metric.target)
        target = f'<div class="target">{_verdict(metric.met)}target {escape(wanted)}</div>'
    return f'<div class="tile"><b>{escape(value)}</b><div>{escape(metric.label)}</div>{target}</div>'


def table(rows: Sequence[Sequence[str | float]], header: Sequence[str]) -> str:
    """Render a table.

    Raises:
        InputError: a row has another length than the header.
    """
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(f"table row {index} has {len(row)} cells for {len(header)} columns")
    columns = [_column([row[index] for row in rows]) for index in range(len(header))]

    def cells(tag: str, words: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if numeric else ''}>{escape(word)}</{tag}>"
            for word, (_, numeric) in zip(words, columns, strict=True)
        )

    body = "".join(
        f"<tr>{cells('td', [words[index] for words, _ in columns])}</tr>" for index in range(len(rows))
    )
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"


def _column(cells: Sequence[str | float]) -> tuple[list[str], bool]:
    """Return the texts of a column's cells, and whether all cells are numbers."""
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    words = iter(format_column(numbers))
    return [cell if isinstance(cell, str) else next(words) for cell in cells], 0 < len(numbers) == len(cells)


def legend(examples: Sequence[GroundingExample | DetectionExample]) -> str:
    """Explain the boxes of the examples."""
    grounding = [one for one in examples if isinstance(one, GroundingExample)]
    predicted = "predicted box"
    if any(example.candidates_xyxy for example in grounding):
        predicted = "chosen candidate"
    elif len(grounding) < len(examples):
        predicted += ", with its probability"
    elif any(one.score is not None for one in grounding):
        predicted += ", with its matching probability"
    return (
        '<p class="legend"><span><i class="swatch dashed"></i>true box</span> '
        f'<span><i class="swatch"></i>{predicted}</span></p>'
    )


def _verdict(met: bool | None) -> str:
    if met is None:
        return ""
    return _CHECK if met else '<span class="bad">✗</span> '


def _badge(correct: bool | None, note: str) -> str:
    css_class, word = ("good", "✓ right") if correct else ("bad", "✗ wrong")
    verdict = "" if correct is None else f'<span class="badge {css_class}">{word}</span>'
    return verdict + (f'<span class="dim">{escape(note)}</span>' if note else "")


def _image(image: Image.Image, longest: int, description: str, boxes: Sequence[BoxAnnotation] = ()) -> str:
    return f'<img src="{data_uri(thumbnail(image, longest, boxes))}" alt="{escape(description)}">'


def _ranked_list(entries: Iterable[tuple[str, float, float, bool]]) -> str:
    """Render (text, score, width of the bar from 0 to 1, whether it is correct) as a list with bars."""
    rows = (
        f'<li{" class=true" if correct else ""}><div class="row"><span>'
        f'{_CHECK if correct else ""}{escape(text)}</span><span class="dim">{score:.2f}</span></div>'
        f'<div class="meter"><i style="width:{width * 100:.0f}%"></i></div></li>'
        for text, score, width, correct in entries
    )
    return f'<ol class="ranks">{"".join(rows)}</ol>'


def _grounding(example: GroundingExample) -> str:
    boxes = [BoxAnnotation(box, "", CANDIDATE_COLOUR) for box in example.candidates_xyxy]
    score = None if example.candidates_xyxy else example.score
    label = "" if score is None else f"{score:.2f}"
    boxes.append(BoxAnnotation(example.predicted_xyxy, label, PREDICTED_COLOUR))
    if example.true_xyxy is not None:  # last, because its dashes leave the line below visible
        boxes.append(BoxAnnotation(example.true_xyxy, "", TRUE_COLOUR, dashed=True))
    image = overlay_heatmap(example.image, example.map_hw) if example.map_hw else example.image
    badge = "" if example.correct is None else _badge(example.correct, f"IoU {example.iou:.2f}")
    return (
        f'<figure class="card">{_image(image, _LARGE, f"Boxes for: {example.phrase}", boxes)}'
        f"<figcaption>“{escape(example.phrase)}”<div>{badge}</div></figcaption></figure>"
    )


def _detection(example: DetectionExample) -> str:
    boxes = [BoxAnnotation(box, f"{score:.2f}", PREDICTED_COLOUR) for box, score in example.found]
    boxes += [BoxAnnotation(box, "", TRUE_COLOUR, dashed=True) for box in example.targets_xyxy]
    note = f"{len(example.found)} found of {len(example.targets_xyxy)}, present {example.presence:.2f}"
    image = _image(example.image, _LARGE, f"Everything found for: {example.text}", boxes)
    return (
        f'<figure class="card">{image}<figcaption>“{escape(example.text)}”'
        f"<div>{_badge(example.correct, note)}</div></figcaption></figure>"
    )


def _answer(example: AnswerExample) -> str:
    description = example.question or ", ".join(f"{label}: {text}" for label, text in example.lines)
    images = [_image(image, _LARGE, description) for image in example.images]
    figure = images[0] if len(images) == 1 else f'<div class="pair">{"".join(images)}</div>'
    question = f"“{escape(example.question)}”" if example.question else ""
    choices = [
        (text, probability, min(max(probability, 0), 1), correct)
        for text, probability, correct in example.choices
    ]
    ranks = _ranked_list(choices) if choices else ""
    lines = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in example.lines)
    below = f"<dl>{lines}</dl>" if lines else ""
    badge = _badge(example.correct, example.note)
    return (
        f'<figure class="card">{figure}<figcaption>{question}{ranks}{below}'
        f"{f'<div>{badge}</div>' if badge else ''}</figcaption></figure>"
    )


def _text_ranking(ranking: TextRanking) -> str:
    texts = sorted(ranking.texts, key=lambda entry: -entry[1])
    scores = [score for _, score, _ in texts]
    low, high = min([0.0, *scores]), max([0.0, *scores])
    ranks = _ranked_list(
        (text, score, (score - low) / ((high - low) or 1.0), correct) for text, score, correct in texts
    )
    image = _image(ranking.image, _LARGE, "Image whose texts are ranked")
    return f'<figure class="card">{image}<figcaption>{ranks}</figcaption></figure>'


def _image_ranking(ranking: ImageRanking) -> str:
    cells = []
    for rank, (image, score, correct) in enumerate(
        sorted(ranking.images, key=lambda entry: -entry[1]), start=1
    ):
        thumb = _image(image, _SMALL, f"Rank {rank}" + (", the right one" if correct else ""))
        cells.append(
            f'<div class="cell{" true" if correct else ""}">{thumb}<div class="row">'
            f'<span>{_CHECK if correct else ""}{rank}</span><span class="dim">{score:.2f}</span></div></div>'
        )
    heading = f"<h3>“{escape(ranking.text)}”</h3>"
    return f'<div class="card strip">{heading}<div class="cells">{"".join(cells)}</div></div>'
