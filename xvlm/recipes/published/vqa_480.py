"""The published fine-tuning for question answering at 480 pixels."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes.published import vqa
from xvlm.tasks.vqa import VQARun

PUBLISHED = vqa.PUBLISHED


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> VQARun:
    """Fine-tune for ten epochs at the resolution of the published numbers.

    Args:
        model: see `vqa`.
        root: see `vqa`.
        images: see `vqa`.
    """
    run = vqa.recipe(model, root, images)
    return replace(run, recipe="published/vqa_480", init=replace(run.init, image_size=480))
