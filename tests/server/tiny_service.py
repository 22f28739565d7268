"""A service of a tiny model with an index of five photos."""

from __future__ import annotations

import base64
from pathlib import Path

from fastapi.testclient import TestClient

from tests.search.collection import write_collection
from tests.tiny import tiny_loaded
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.predict import Predictor
from xvlm.search.index import Index
from xvlm.server.app import create_app
from xvlm.server.service import Service
from xvlm.server.settings import ServerSettings

HEADS = (*PRETRAINING, "detection", "caption_decoder", "vqa_decoder")


def write_index(folder: Path, heads: tuple[str, ...] = HEADS) -> Path:
    """Write `model`, `photos` and `index` into a folder, and return it."""
    save_model(tiny_loaded(heads=heads), folder / "model")
    index = Index.create(folder / "index", folder / "model", levels=(2,))
    index.update([str(write_collection(folder / "photos"))])
    return folder


def client(folder: Path, token: str | None = None, with_index: bool = True, **settings: object) -> TestClient:
    """Return a client of the service; use it as a context."""
    used = ServerSettings(**settings)  # type: ignore[arg-type]
    predictor = Predictor.load(folder / "model")
    index = None
    if with_index:
        opened = Index.open(folder / "index")
        index = Index(opened.folder, opened.manifest, predictor)
    service = Service(predictor, index, used, "tiny")
    app = create_app(service, used, token)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def encoded(path: Path) -> str:
    """Return a file in base64."""
    return base64.b64encode(path.read_bytes()).decode()
