"""Grounding with boxes on photographs, from the model of `photos`: for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.ranges import PositiveInt
from xvlm.recipes import photos
from xvlm.recipes._photos import model as model_with
from xvlm.recipes._photos import optim
from xvlm.tasks._build import Init
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import LossConfig


def recipe(
    model: str = "runs/photos/model", root: str = "photos", size: PositiveInt = 288, steps: PositiveInt = 600
) -> GroundingRun:
    """The box loss alone, on phrases of a folder of photos, at a higher resolution.

    Args:
        model: model folder to begin from.
        root: folder with `train.jsonl` and `dev_grounding.json`, see `photos`.
        size: side of the images, in pixels.
        steps: of training.
    """
    data = photos.recipe(root).data
    return GroundingRun(
        recipe="photos_grounding",
        model=model_with(("box", "matching")),
        init=Init(model=model, image_size=size),
        data=replace(data, pairs=(), regions_batch=64, max_regions=6),
        losses=LossConfig(itc=0.0, itm=0.0, mlm=0.0, bbox=5.0, giou=2.0),
        optim=optim(steps, lr=5e-4, towers=0.1),
        dev=DevConfig(grounding=f"{root}/dev_grounding.json", limit=0),
        precision="bf16",
        workers=1,
        save_every=100,
    )
