"""How each item looks: item -> HTML.  Every text that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from xvlm.errors import InputError
from xvlm.report.bars import Bars, bars_svg
from xvlm.report.curves import Curve, curve_svg
from xvlm.report.draw import (
    CANDIDATE_COLOUR,
    PREDICTED_COLOUR,
    TRUE_COLOUR,
    DrawnBox,
    data_uri,
    heated,
    thumbnail,
)
from xvlm.report.items import (
    AnswerExample,
    GroundingExample,
    ImageRanking,
    Item,
    Metric,
    Picture,
    Table,
    TextRanking,
)
from xvlm.report.svg import column, number

_LARGE, _SMALL = 520, 220  # pixels: about twice what the page shows, for sharp screens


def card(item: Item, position: int = 0) -> str:
    """One item as HTML; `position` within its section gives a curve its colour."""
    match item:
        case GroundingExample():
            return _grounding(item)
        case TextRanking():
            return _texts(item)
        case ImageRanking():
            return _images(item)
        case AnswerExample():
            return _answer(item)
        case Picture():
            return _picture(item)
        case Curve():
            return f'<figure class="card plot">{curve_svg(item, position)}</figure>'
        case Bars():
            return f'<figure class="card plot bars">{bars_svg(item)}</figure>'
        case Table():
            return f'<div class="card scroll">{table(item.rows, item.header)}</div>'
        case str():
            return f"<p>{escape(item)}</p>"


def grid_class(item: Item) -> str:
    """Items of one class stand in one grid."""
    if isinstance(item, (str, Table, ImageRanking, Bars)):
        return "stack"
    return "grid"


def tile(metric: Metric) -> str:
    """A large number with its label, and the target with its verdict where there is one."""
    value = metric.value if isinstance(metric.value, str) else number(metric.value)
    target = ""
    if metric.target is not None:
        wanted = metric.target if isinstance(metric.target, str) else number(metric.target)
        target = f'<div class="target">{_verdict(metric.met)}target {escape(wanted)}</div>'
    return f'<div class="tile"><b>{escape(value)}</b><div>{escape(metric.label)}</div>{target}</div>'


def table(rows: Sequence[Sequence[str | float]], header: Sequence[str]) -> str:
    """An HTML table.  Raises InputError for a row that is not as long as the header."""
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(f"table row {index} has {len(row)} cells for {len(header)} columns")
    columns = [_column([row[place] for row in rows]) for place in range(len(header))]

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
    """The cells of a column in words, and whether they are all numbers."""
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    words = iter(column(numbers))
    return [cell if isinstance(cell, str) else next(words) for cell in cells], 0 < len(numbers) == len(cells)


def legend(examples: Sequence[GroundingExample]) -> str:
    """What the boxes of some examples mean."""
    chosen = any(example.candidates_xyxy for example in examples)
    score = ", with its matching probability" if any(one.score is not None for one in examples) else ""
    found = "what it chose" if chosen else f"where the model looks{score}"
    return (
        '<p class="legend"><span><i class="swatch dashed"></i>where it is</span> '
        f'<span><i class="swatch"></i>{found}</span></p>'
    )


def _verdict(met: bool | None) -> str:
    if met is None:
        return ""
    return '<span class="good">✓</span> ' if met else '<span class="bad">✗</span> '


def _image(picture: str, description: str, kind: str = "") -> str:
    return f'<img{f" class={kind}" if kind else ""} src="{picture}" alt="{escape(description)}">'


def _grounding(example: GroundingExample) -> str:
    boxes = [DrawnBox(box, "", CANDIDATE_COLOUR) for box in example.candidates_xyxy]
    score = None if example.candidates_xyxy else example.score
    plate = "" if score is None else f"{score:.2f}"
    boxes.append(DrawnBox(example.predicted_xyxy, plate, PREDICTED_COLOUR))
    if example.true_xyxy is not None:  # on top: dashes leave the line below them to be seen
        boxes.append(DrawnBox(example.true_xyxy, "", TRUE_COLOUR, dashed=True))
    image = heated(example.image, example.map_hw) if example.map_hw else example.image
    picture = data_uri(thumbnail(image, _LARGE, boxes))
    badge = "" if example.right is None else _badge(example.right, f"IoU {example.iou:.2f}")
    return (
        f'<figure class="card">{_image(picture, f"Boxes for: {example.phrase}")}'
        f"<figcaption>“{escape(example.phrase)}”<div>{badge}</div></figcaption></figure>"
    )


def _badge(right: bool | None, note: str) -> str:
    kind, word = ("good", "✓ right") if right else ("bad", "✗ wrong")
    judged = "" if right is None else f'<span class="badge {kind}">{word}</span>'
    return judged + (f'<span class="dim">{escape(note)}</span>' if note else "")


def _answer(example: AnswerExample) -> str:
    described = example.asked or ", ".join(f"{label}: {text}" for label, text in example.lines)
    pictures = [_image(data_uri(thumbnail(image, _LARGE)), described) for image in example.images]
    shown = pictures[0] if len(pictures) == 1 else f'<div class="pair">{"".join(pictures)}</div>'
    asked = f"“{escape(example.asked)}”" if example.asked else ""
    choices = "".join(
        f'<li{" class=true" if true else ""}><div class="row"><span>'
        f'{_CHECK if true else ""}{escape(text)}</span><span class="dim">{share:.2f}</span></div>'
        f'<div class="meter"><i style="width:{min(max(share, 0), 1) * 100:.0f}%"></i></div></li>'
        for text, share, true in example.choices
    )
    ranks = f'<ol class="ranks">{choices}</ol>' if choices else ""
    lines = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in example.lines)
    below = f"<dl>{lines}</dl>" if lines else ""
    badge = _badge(example.right, example.note)
    return (
        f'<figure class="card">{shown}<figcaption>{asked}{ranks}{below}'
        f"{f'<div>{badge}</div>' if badge else ''}</figcaption></figure>"
    )


_CHECK = '<span class="good">✓</span> '


def _ordered(scores: Sequence[float]) -> tuple[list[int], list[float]]:
    """Places by falling score, and each score's share of the widest bar, 0 to 1."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    low, high = min([0.0, *scores]), max([0.0, *scores])
    return order, [(score - low) / ((high - low) or 1.0) for score in scores]


def _texts(ranking: TextRanking) -> str:
    order, shares = _ordered([score for _, score, _ in ranking.texts])
    rows = []
    for place in order:
        text, score, true = ranking.texts[place]
        mark = _CHECK if true else ""
        rows.append(
            f'<li{" class=true" if true else ""}><div class="row"><span>{mark}{escape(text)}</span>'
            f'<span class="dim">{score:.2f}</span></div>'
            f'<div class="meter"><i style="width:{shares[place] * 100:.0f}%"></i></div></li>'
        )
    picture = data_uri(thumbnail(ranking.image, _LARGE))
    return (
        f'<figure class="card">{_image(picture, "Picture whose texts are ranked")}'
        f'<figcaption><ol class="ranks">{"".join(rows)}</ol></figcaption></figure>'
    )


def _images(ranking: ImageRanking) -> str:
    order, _ = _ordered([score for _, score, _ in ranking.images])
    cells = []
    for rank, place in enumerate(order, start=1):
        image, score, true = ranking.images[place]
        picture = _image(
            data_uri(thumbnail(image, _SMALL)), f"Rank {rank}" + (", the right one" if true else "")
        )
        mark = _CHECK if true else ""
        cells.append(
            f'<div class="cell{" true" if true else ""}">{picture}'
            f'<div class="row"><span>{mark}{rank}</span><span class="dim">{score:.2f}</span></div></div>'
        )
    heading = f"<h3>“{escape(ranking.text)}”</h3>"
    return f'<div class="card strip">{heading}<div class="cells">{"".join(cells)}</div></div>'


def _picture(item: Picture) -> str:
    lines = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in item.lines)
    picture = data_uri(thumbnail(item.image, _LARGE))
    description = ", ".join(f"{label}: {text}" for label, text in item.lines)
    below = f"<figcaption><dl>{lines}</dl></figcaption>"
    return f'<figure class="card">{_image(picture, description)}{below}</figure>'
