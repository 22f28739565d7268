"""Statements about pairs of scenes, from the demo's model: for 2 CPU cores."""

from __future__ import annotations

from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.nlvr2 import NLVR2Run


def recipe(model: str = "runs/demo/model", scenes: int = 8000, steps: int = 1200) -> NLVR2Run:
    """The statements about each pair.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    return NLVR2Run(
        recipe="scenes_nlvr2",
        model=_scenes.model("pairs"),
        init=Init(model=model),
        data=_scenes.data("scene-pairs", scenes, batch=12),
        optim=_scenes.optim(steps, lr=2e-4, new=5.0),
        workers=1,
        save_every=100,
    )
