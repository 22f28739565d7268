"""Shared by the commands that fit something of a model on data that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xvlm.data.sources.source import Source
    from xvlm.models.checkpoints.folder import ModelBundle


def open_held_out(
    model: Path, data: str, image_root: str | None, max_pixels: int, allow_remote: bool
) -> tuple[ModelBundle, Path, Source]:
    """Load a model on this process's device, and open the data.

    Returns:
        the model, its folder, which can be written to, and the data.
    Raises:
        MissingFileError: `model` is no folder here, or a file is missing.
    """
    from xvlm import distributed
    from xvlm.common.errors import MissingFileError
    from xvlm.common.outputs import check_writable
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.models.checkpoints.folder import load_model, local_folder

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    distributed.init()
    if not model.is_dir():
        raise MissingFileError(
            f"{model} is no folder here; what is fitted is written into the model's folder"
        )
    folder = local_folder(model)
    check_writable(folder)
    source, bundle = open_source(data, image_root), load_model(folder)
    bundle.model.to(distributed.device())
    return bundle, folder, source
