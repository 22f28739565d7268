"""Grounding without boxes on scenes, from the demo's model: for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.ranges import PositiveInt
from xvlm.recipes import _scenes, demo
from xvlm.tasks._build import Init
from xvlm.tasks.weak_grounding import WeakGroundingRun


def recipe(
    model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 300
) -> WeakGroundingRun:
    """Captions and phrases as texts of whole scenes; no box is looked at.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    data = demo.recipe(scenes).data
    return WeakGroundingRun(
        recipe="scenes_weak_grounding",
        model=_scenes.model("contrastive", "matching"),
        init=Init(model=model),
        data=replace(data, regions=(), pairs_batch=32, captions=2, boxes_as_captions=True),
        optim=_scenes.optim(steps, lr=2e-4),
        workers=1,
        save_every=100,
    )
