"""Captions of scenes, from the demo's model: for 2 CPU cores."""

from __future__ import annotations

from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.captioning import CaptioningRun


def recipe(model: str = "runs/demo/model", scenes: int = 8000, steps: int = 1800) -> CaptioningRun:
    """The captions of the scenes.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    return CaptioningRun(
        recipe="scenes_captioning",
        model=_scenes.model("captions"),
        init=Init(model=model),
        data=_scenes.data("scenes", scenes, batch=32),
        captions=3,
        smoothing=0.0,
        optim=_scenes.optim(steps),
        workers=1,
        save_every=100,
    )
