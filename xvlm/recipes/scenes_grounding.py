"""Grounding with boxes on scenes, from the demo's model: for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.ranges import PositiveInt
from xvlm.recipes import _scenes, demo
from xvlm.tasks._build import Init
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import LossConfig


def recipe(
    model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 800
) -> GroundingRun:
    """The box loss alone, on the demo's scenes.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    data = demo.recipe(scenes).data
    return GroundingRun(
        recipe="scenes_grounding",
        model=_scenes.model("box"),
        init=Init(model=model),
        data=replace(data, pairs=(), regions_batch=32),
        losses=LossConfig(itc=0.0, itm=0.0, mlm=0.0, bbox=5.0, giou=2.0),
        optim=_scenes.optim(steps),
        workers=1,
        save_every=100,
    )
