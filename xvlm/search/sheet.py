"""A contact sheet of hits: one HTML file with thumbnails and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xvlm.data.images.decode import open_image
from xvlm.records import BadRecord
from xvlm.reports import AnswerExample, BoxAnnotation, Section, draw_boxes, write_report
from xvlm.search.photos import read_photo
from xvlm.search.ranking import Hit


def write_sheet(path: Path, query: str, hits: Sequence[Hit]) -> Path:
    """Write the page atomically, and return its path; a photo that is gone by now is left out.

    Args:
        path: the HTML file.
        query: what was searched for, the heading.
    """
    items = [item for hit in hits if (item := _item(hit)) is not None]
    lead = f"{len(hits)} photos, best first" if hits else "Nothing was found."
    return write_report(path, query, lead=lead, sections=[Section("Photos", "", items)])


def _item(hit: Hit) -> AnswerExample | None:
    try:
        image = open_image(read_photo(hit.path), key=hit.path).image
    except BadRecord:
        return None
    image = draw_boxes(image, [BoxAnnotation(box, "") for box in hit.boxes_xyxy])
    note = f"{hit.score:.2f}" if hit.probability is None else f"{100 * hit.probability:.0f} %"
    day = "" if hit.time is None else hit.time.strftime("%Y-%m-%d")
    lines = [(name, value) for name, value in (("file", hit.path), ("day", day)) if value]
    return AnswerExample([image], lines=lines, note=note)
