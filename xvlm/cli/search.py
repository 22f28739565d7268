"""`xvlm search`: the photos of an index that fit a text, look like an image, or both."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import InputError, printable
from xvlm.common.ranges import FiniteFloat, NonNegativeInt, PositiveInt, Probability


def command(
    index: Positional[Annotated[Path, tyro.conf.arg(metavar="INDEX")]],
    text: Positional[Annotated[str | None, tyro.conf.arg(metavar="[TEXT]")]] = None,
    like: str | None = None,
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None,
    k: PositiveInt = 20,
    offset: NonNegativeInt = 0,
    rerank: Literal["both", "none"] = "both",
    min_probability: Probability | None = None,
    after: str | None = None,
    before: str | None = None,
    folder: str | None = None,
    near: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None,
    candidates: PositiveInt = 50,
    model: Path | None = None,
    json: Flag = False,
    sheet: Path | None = None,
    device: str | None = None,
) -> None:
    """Search the photos of an index by a text, by an image, or by both.

    Args:
        index: folder that `xvlm index` made.
        text: what to search for.
        like: image that hits look like.
        box: region of that image: left, top, right and bottom edge in pixels.
        k: largest number of hits.
        offset: number of hits to leave out, for the next page.
        rerank: both: order candidates by contrastive score and matching, and find the boxes of the text;
            none: by vectors alone.
        min_probability: smallest probability of a hit; by default that of the model's search calibration, if
            it has one; 0 shows all candidates.
        after: taken at this day or time or later, such as 2024-05-31 or 2024-05-31T18:00; local time, unless
            it has an offset such as +09:00.
        before: taken before this day or time.
        folder: folder that photos are in or below.
        near: latitude, longitude and kilometres of a circle that photos were taken in.
        candidates: number of photos that are reranked.
        model: model of the index, if it is no longer where it was.
        json: print JSON.
        sheet: HTML file that gets a contact sheet with the boxes.
        device: cpu, cuda or cuda:NUMBER; by default the GPU, if there is one.
    """
    from xvlm.common.outputs import check_writable
    from xvlm.search.filters import Circle, PhotoFilter
    from xvlm.search.index import Index
    from xvlm.search.sheet import write_sheet

    if text is None and like is None:
        raise InputError("xvlm search needs a TEXT, --like IMAGE or both")
    if box is not None and like is None:
        raise InputError("--box is a region of the image of --like, which is missing")
    if sheet is not None:
        check_writable(sheet.parent)
    circle = None if near is None else Circle(*near)
    allowed = PhotoFilter(_time("after", after), _time("before", before), folder, circle)
    hits = Index.open(index, model, device).search(
        text, like, box, k, offset, rerank == "both", min_probability, allowed, candidates
    )
    if sheet is not None:
        write_sheet(sheet, text or f"like {like}", hits)
    if json:
        print_answer({"hits": [_as_json(hit) for hit in hits]}, as_json=True)
        return
    for hit in hits:
        probability = "      " if hit.probability is None else f"{hit.probability:.4f}"
        boxes = " ".join(str([round(edge) for edge in box]) for box in hit.boxes_xyxy)
        print(f"{probability}  {printable(hit.path)}  {boxes}".rstrip())
    if not hits:
        print("none")


def _time(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--{name} is {text!r}; it must be a day or time such as 2024-05-31") from error


def _as_json(hit: Any) -> dict[str, Any]:
    return {
        "path": hit.path,
        "score": hit.score,
        "probability": hit.probability,
        "boxes_xyxy": [[round(edge, 2) for edge in box] for box in hit.boxes_xyxy],
        "width": hit.width,
        "height": hit.height,
        "time": None if hit.time is None else hit.time.isoformat(),
        "latitude": hit.latitude,
        "longitude": hit.longitude,
    }
