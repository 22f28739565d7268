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
    from xvlm.cli.common.held_out import open_held_out
    from xvlm.experiments.chosen_weights import choose_score_weights

    bundle, folder, captions = open_held_out(model, data, image_root, max_pixels, allow_remote)
    choose_score_weights(bundle, folder, captions)
