"""`xvlm space`: a folder for a Gradio Space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def command(
    repo: Positional[Annotated[str, tyro.conf.arg(metavar="REPO")]],
    out: Path = Path("space"),
    title: str = "",
) -> None:
    """Write a folder for a Gradio Space: a page that finds a phrase in a photo with a model of a hub.

    Args:
        repo: repository of the model, ORGANISATION/NAME or ORGANISATION/NAME@REVISION.
        out: folder to write; `gradio` is needed by the Space alone.
        title: title of the page.
    """
    from xvlm.common.terminal import print_notice
    from xvlm.publish.space import write_space

    print_notice(f"space: {write_space(repo, out, title)}")
