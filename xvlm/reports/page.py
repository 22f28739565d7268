"""Writes a report as one HTML file that needs no other file and fits phones and desktops."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from xvlm.common.json_file import write_text
from xvlm.reports.cards import card, grid_class, legend, tile
from xvlm.reports.items import DetectionExample, GroundingExample, Metric, Section
from xvlm.reports.style import PAGE_CSS
from xvlm.reports.svg import standalone_svg


def write_report(
    path: str | Path,
    title: str,
    *,
    lead: str = "",
    summary: Sequence[Metric] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write the page atomically and return its path.

    Args:
        path: the HTML file; its folder is created.
        title: heading of the page.
        lead: sentence under the heading.
        summary: numbers at the top.
        sections: everything else, in order; a section without items is left out.
    """
    tiles = "".join(map(tile, summary))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p>' if lead else "",
        f'<div class="tiles">{tiles}</div>' if tiles else "",
        *(_section(section) for section in sections if section.items),
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
    """Write a chart (`bars_svg`, `growth_svg`) as a file with its own style for light and dark mode."""
    write_text(Path(path), standalone_svg(svg))
    return Path(path)


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    if section.intro:
        parts.append(f'<p class="intro">{escape(section.intro)}</p>')
    boxed = GroundingExample | DetectionExample
    if examples := [item for item in section.items if isinstance(item, boxed)]:
        parts.append(legend(examples))
    for css_class, items in groupby(enumerate(section.items), key=lambda numbered: grid_class(numbered[1])):
        cards = "\n".join(card(item, position) for position, item in items)
        parts.append(f'<div class="{css_class}">\n{cards}\n</div>')
    return "\n".join([*parts, "</section>"])
