"""The report: one HTML file that needs no other, for a phone as for a desk."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from xvlm.report.cards import card, grid_class, legend, tile
from xvlm.report.curves import Curve
from xvlm.report.items import GroundingExample, ImageRanking, Metric, Section, TextRanking
from xvlm.report.style import PAGE_CSS
from xvlm.report.svg import standalone
from xvlm.run import write_text


def write_report(
    path: str | Path,
    title: str,
    summary: Sequence[Metric | tuple[str, str | float]] = (),
    curves: Sequence[Curve] = (),
    grounding: Sequence[GroundingExample] = (),
    text_rankings: Sequence[TextRanking] = (),
    image_rankings: Sequence[ImageRanking] = (),
    notes: Sequence[str] = (),
    *,
    lead: str = "",
    sections: Sequence[Section] = (),
) -> Path:
    """Write the page and return its path; whoever reads meanwhile sees the old page or the new, never half.

    Args:
        path: the HTML file; its folder is made.
        title: the heading.
        summary: the numbers at the top.
        lead: a sentence under the heading.
        sections: whatever else there is to show, between the rankings and the curves.
        notes: paragraphs at the end.
    """
    parts = [
        Section("Where is it?", "A phrase goes in, a box comes out.", grounding),
        Section(
            "Which text fits?", "Texts by matching probability; ✓ belongs to the picture.", text_rankings
        ),
        Section("Which picture fits?", "Pictures by matching probability, the best first.", image_rankings),
        *sections,
        Section("Training", "Raw values are faint, their course is bold.", curves),
        Section("Notes", "", notes),
    ]
    tiles = "".join(tile(Metric(*row)) for row in summary)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p>' if lead else "",
        f'<div class="tiles">{tiles}</div>' if tiles else "",
        *(_section(part) for part in parts if part.items),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{PAGE_CSS}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    write_text(Path(path), page)
    return Path(path)


def write_svg(path: str | Path, svg: str) -> Path:
    """Save a drawing (`curve_svg`, `bars_svg`) as a file of its own, light or dark as its reader has it."""
    write_text(Path(path), standalone(svg))
    return Path(path)


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    if section.intro:
        parts.append(f'<p class="intro">{escape(section.intro)}</p>')
    if boxes := [item for item in section.items if isinstance(item, GroundingExample)]:
        parts.append(legend(boxes))
    for kind, items in groupby(enumerate(section.items), key=lambda numbered: grid_class(numbered[1])):
        cards = "\n".join(card(item, position) for position, item in items)
        parts.append(f'<div class="{kind}">\n{cards}\n</div>')
    return "\n".join([*parts, "</section>"])
