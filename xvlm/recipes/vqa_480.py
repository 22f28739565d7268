"""As `vqa`, at 480 pixels."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes import vqa
from xvlm.tasks.vqa import VQARun

PUBLISHED = vqa.PUBLISHED


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> VQARun:
    """Ten passes at the resolution of the published numbers.

    Args:
        model: as for `vqa`.
        root: as for `vqa`.
        images: as for `vqa`.
    """
    run = vqa.recipe(model, root, images)
    return replace(run, recipe="vqa_480", init=replace(run.init, image_size=480))
