"""`xvlm calibrate`: probabilities that mean what they say, fitted on data that a model was not trained on."""

from __future__ import annotations

from pathlib import Path

from xvlm.cli.common.options import Flag
from xvlm.common.ranges import PositiveInt


def command(
    model: Path,
    data: str,
    image_root: str | None = None,
    limit: PositiveInt | None = None,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Flag = False,
) -> None:
    """Fit how scores become probabilities, and write it into the model.

    Args:
        model: model folder or run folder; its `calibration` is replaced.
        data: images with phrases that describe something in them and phrases that do not, as for `xvlm eval
            detection`, that the model was neither trained nor will be evaluated on.
        image_root: folder that image paths are relative to; by default that of the file.
        limit: number of records; by default all.
        max_pixels: maximum width x height of an image.
        allow_remote: data files may name images by URL.
    """
    from xvlm import distributed
    from xvlm.common.errors import MissingFileError
    from xvlm.common.outputs import check_writable
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.experiments.calibrated import calibrate
    from xvlm.models.checkpoints.folder import load_model, local_folder

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    distributed.init()
    if not model.is_dir():
        raise MissingFileError(f"{model} is no folder here; a calibration is written into the model's folder")
    folder = local_folder(model)
    check_writable(folder)
    source, bundle = open_source(data, image_root), load_model(folder)
    bundle.model.to(distributed.device())
    calibrate(bundle, folder, source, limit)
