"""`xvlm app`: the page in one command, on procedural scenes."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from xvlm.cli.common.options import Flag
from xvlm.server.settings import ServerSettings

DEFAULT_SETTINGS = ServerSettings()


def command(
    out: Path = Path("runs/app"),
    demo: Path = Path("runs/demo"),
    settings: Annotated[ServerSettings, tyro.conf.arg(name="")] = DEFAULT_SETTINGS,
    no_browser: Flag = False,
) -> None:
    """Train a small model if there is no demo, index 1,000 scenes, and serve the page, until Ctrl-C.

    Args:
        out: folder for the model, the scenes and their index.
        demo: folder of a finished `xvlm demo`, whose model is used if it is there.
        no_browser: do not open the page.
    """
    from xvlm.cli.serve import run_service
    from xvlm.experiments.app import prepare_app

    index = prepare_app(out, demo)
    run_service(index, None, settings, opened=None if no_browser else webbrowser.open)
