"""Captions of scenes, from the model of `scenes_vqa`: for 2 CPU cores."""

from __future__ import annotations

from xvlm.ranges import PositiveInt
from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.captioning import CaptioningRun


def recipe(
    model: str = "runs/demo/tasks/scenes_vqa/model", scenes: PositiveInt = 8000, steps: PositiveInt = 2100
) -> CaptioningRun:
    """Two captions of many scenes in each step.

    Args:
        model: model folder that questions have taught what things look like, see `scenes_vqa`.
        scenes: number of different training scenes.
        steps: of training.
    """
    return CaptioningRun(
        recipe="scenes_captioning",
        model=_scenes.model("captions"),
        init=Init(model=model),
        data=_scenes.data("scenes", scenes, batch=48),
        captions=2,
        smoothing=0.0,
        optim=_scenes.optim(steps),
        workers=1,
        save_every=100,
    )
