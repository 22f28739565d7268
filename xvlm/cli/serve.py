"""`xvlm serve`: a model and an index of photos over HTTP, with a page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from xvlm.common.errors import InputError
from xvlm.common.ranges import PositiveInt
from xvlm.server.settings import ServerSettings, check_token

DEFAULT_SETTINGS = ServerSettings()
TOKEN = "XVLM_TOKEN"
"""Environment variable with the token, which a command line would show to every process."""


def command(
    index: Path | None = None,
    model: Path | None = None,
    settings: Annotated[ServerSettings, tyro.conf.arg(name="")] = DEFAULT_SETTINGS,
    max_pixels: PositiveInt = 100_000_000,
    device: str | None = None,
) -> None:
    """Serve a model, and search in an index of photos, until Ctrl-C.

    The token that callers send is the environment variable XVLM_TOKEN; without one only this machine may ask.

    Args:
        index: folder that `xvlm index` made.
        model: model folder, run folder or hub repository; by default that of the index.
        max_pixels: maximum width x height of an image.
        device: cpu, cuda or cuda:NUMBER; by default the GPU, if there is one.
    """
    run_service(index, model, settings, max_pixels, device)


def run_service(
    index: Path | None,
    model: Path | None,
    settings: ServerSettings,
    max_pixels: int = 100_000_000,
    device: str | None = None,
    opened: Callable[[str], object] | None = None,
) -> None:
    """Serve as `command` does.

    Args:
        opened: called with the URL once the service listens.
    """
    token = os.environ.get(TOKEN) or None
    check_token(settings, token)
    if index is None and model is None:
        raise InputError("xvlm serve needs --index, --model or both")

    from xvlm.data.files.limits import change_limits
    from xvlm.predict import Predictor
    from xvlm.server.app import create_app
    from xvlm.server.run import serve
    from xvlm.server.service import Service

    change_limits(max_pixels=max_pixels)
    if index is None:
        name, photos = str(model), None
        predictor = Predictor.load(name, device)
    else:
        from xvlm.search.index import Index
        from xvlm.search.manifest import read_manifest

        manifest = read_manifest(index)
        name = str(model or manifest.model)
        predictor = Predictor.load(name, device)
        photos = Index(index, manifest, predictor)
    service = Service(predictor, photos, settings, Path(name).name)

    def started(url: str) -> None:
        print(f"serving at {url} (Ctrl-C ends it)", flush=True)
        if opened is not None:
            opened(url)

    serve(create_app(service, settings, token), settings, started)
