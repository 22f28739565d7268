"""`xvlm weights`: the weights of matching and of phrases in the ranking, fitted on held-out images."""

from __future__ import annotations

from pathlib import Path

from xvlm.cli.common.options import Flag
from xvlm.common.ranges import PositiveInt


def command(
    model: Path,
    data: str,
    image_root: str | None = None,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Flag = False,
) -> None:
    """Fit how much matching and phrases count in retrieval, and write both weights into the model.

    Args:
        model: model folder or run folder; its `matching_weight` and `phrase_weight` are replaced.
        data: images with captions, as for `xvlm eval retrieval`, that the model was neither trained nor will
            be evaluated on.
        image_root: folder that image paths are relative to; by default that of the file.
        max_pixels: maximum width x height of an image.
        allow_remote: data files may name images by URL.
    """
    from xvlm import distributed
    from xvlm.common.errors import MissingFileError
    from xvlm.common.outputs import check_writable
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.experiments.chosen_weights import choose_score_weights
    from xvlm.models.checkpoints.folder import load_model, local_folder

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    distributed.init()
    if not model.is_dir():
        raise MissingFileError(f"{model} is no folder here; weights are written into the model's own folder")
    folder = local_folder(model)
    check_writable(folder)
    captions, bundle = open_source(data, image_root), load_model(folder)
    bundle.model.to(distributed.device())
    choose_score_weights(bundle, folder, captions)
