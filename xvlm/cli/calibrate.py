"""`xvlm calibrate`: probabilities that mean what they say, fitted on data that a model was not trained on."""

from __future__ import annotations

from pathlib import Path

from xvlm.cli.common.options import Flag
from xvlm.common.ranges import PositiveInt


def command(
    model: Path,
    data: str,
    image_root: str | None = None,
    search: Flag = False,
    limit: PositiveInt | None = None,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Flag = False,
) -> None:
    """Fit how scores become probabilities, and write it into the model.

    Args:
        model: model folder or run folder; its `calibration` is replaced.
        data: images with phrases that describe something in them and phrases that do not, as for `xvlm eval
            detection`, that the model was neither trained nor will be evaluated on.
        search: fit how `xvlm search` ranks and judges photos instead, on images with captions.
        image_root: folder that image paths are relative to; by default that of the file.
        limit: number of records; by default all.
        max_pixels: maximum width x height of an image.
        allow_remote: data files may name images by URL.
    """
    from xvlm.cli.common.held_out import open_held_out
    from xvlm.experiments.calibrated import calibrate
    from xvlm.experiments.calibrated_search import calibrate_search, judged_captions

    bundle, folder, source = open_held_out(model, data, image_root, max_pixels, allow_remote)
    if search:
        calibrate_search(bundle, folder, judged_captions(source, limit))
    else:
        calibrate(bundle, folder, source, limit)
