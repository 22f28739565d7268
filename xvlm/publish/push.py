"""Upload a model and its card to a hub."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from xvlm.data.images.user_images import open_user_image
from xvlm.models.checkpoints.folder import FILES, load_model, local_folder
from xvlm.models.checkpoints.hub import upload
from xvlm.predict import Predictor
from xvlm.publish.card import THUMBNAIL, model_card
from xvlm.publish.options import CardOptions
from xvlm.reports import BoxAnnotation
from xvlm.reports.draw import thumbnail

CARD = "README.md"
_PIXELS = 640


def card_files(model: str | Path, repo: str, options: CardOptions) -> dict[str, bytes]:
    """Return the card, and the thumbnail if there is an image, by name."""
    files: dict[str, bytes] = {}
    if options.image is not None:
        files[THUMBNAIL] = _thumbnail(model, options.image, options.phrase)
    return {CARD: model_card(model, repo, options).encode(), **files}


def _thumbnail(model: str | Path, image: Path, phrase: str) -> bytes:
    predictor, opened = Predictor.load(model), open_user_image(image)
    boxes = []
    if "box" in predictor.model.config.heads:
        boxes = [BoxAnnotation(predictor.photo(opened).ground(phrase).box_xyxy, phrase)]
    data = io.BytesIO()
    thumbnail(opened.image, _PIXELS, boxes).convert("RGB").save(data, "JPEG", quality=88)
    return data.getvalue()


def push(
    model: str | Path,
    repo: str,
    card: Mapping[str, bytes],
    private: bool = False,
    branch: str = "",
    message: str = "",
) -> str:
    """Upload a model folder, or that of a run, with its card, and return the address of the commit.

    Args:
        card: see `card_files`.
        private, branch: see `hub.upload`.
        message: of the commit.
    Raises:
        MissingFileError or InputError: the model cannot be read.
        OutputError: the hub refuses it.
    """
    load_model(model)  # so that nothing is uploaded that others could not load
    folder = local_folder(model)
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES}
    return upload(repo, {**files, **card}, message, private, branch)
