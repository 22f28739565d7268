"""`xvlm data look`: what is in a data source, as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import first_word, returning_call
from xvlm.common.errors import InputError
from xvlm.common.ranges import PositiveInt
from xvlm.common.terminal import escaped_output, print_notice


def command(words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="look ...")]] = ()) -> None:
    """Show what is in a data source: xvlm data look DATA --out page.html.

    Args:
        words: look, then its arguments; `xvlm data look --help` lists them.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse the arguments, and return the call."""
    action, rest = first_word(words, "data", "action", lambda: ["look"])
    if action != "look":
        raise InputError(f"xvlm data {action} is no command; there is xvlm data look")
    with escaped_output():
        return tyro.cli(returning_call(look), args=rest, prog="xvlm data look")  # type: ignore[no-any-return]


def look(
    data: Positional[str],
    out: Path = Path("look.html"),
    image_root: str | None = None,
    samples: PositiveInt = 50,
    counted: PositiveInt = 2000,
    model: str = "",
    max_pixels: PositiveInt = 100_000_000,
) -> None:
    """Write a page about a data source: counts, histograms of boxes and lengths, samples with their boxes.

    Args:
        data: JSON or JSON-lines file, tar shards, a folder of them, or a scheme such as scenes:test:500.
        out: the page.
        image_root: folder that image paths are relative to; else the file's.
        samples: number of records that are shown.
        counted: number of records that are counted, evenly spaced.
        model: model folder; the page then shows how probable it finds the captions of the counted images.
        max_pixels: maximum width x height of an image.
    """
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.prepare.look import write_look
    from xvlm.prepare.score import caption_score

    change_limits(max_pixels=max_pixels)
    source, score = open_source(data, image_root), caption_score(model) if model else None
    print_notice(f"page: {write_look(out, source, samples, counted, score)}")
