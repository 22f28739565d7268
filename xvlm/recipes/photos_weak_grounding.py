"""Grounding without boxes on photographs, from the model of `photos`: for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.ranges import PositiveInt
from xvlm.recipes import photos
from xvlm.recipes._photos import model as model_with
from xvlm.recipes._photos import optim
from xvlm.tasks._build import Init
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import LossConfig
from xvlm.tasks.weak_grounding import WeakGroundingRun


def recipe(
    model: str = "runs/photos/model", root: str = "photos", steps: PositiveInt = 400
) -> WeakGroundingRun:
    """Captions and phrases of a folder of photos as texts of whole images; no box is looked at.

    Args:
        model: model folder to begin from.
        root: folder with `train.jsonl` and `dev_grounding.json`, see `photos`.
        steps: of training.
    """
    data = photos.recipe(root).data
    return WeakGroundingRun(
        recipe="photos_weak_grounding",
        model=model_with(("contrastive", "matching")),
        init=Init(model=model),
        data=replace(data, regions=(), pairs_batch=48, captions=4, boxes_as_captions=True),
        losses=LossConfig(mlm=0.0, bbox=0.0, giou=0.0, easy_negatives=0.5),
        optim=optim(steps, lr=3e-4, towers=0.1),
        dev=DevConfig(grounding=f"{root}/dev_grounding.json", limit=0),
        precision="bf16",
        workers=1,
        save_every=100,
    )
