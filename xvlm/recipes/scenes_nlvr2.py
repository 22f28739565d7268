"""Statements about pairs of scenes, from the model of `scenes_vqa`: for 2 CPU cores."""

from __future__ import annotations

from xvlm.ranges import PositiveInt
from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.nlvr2 import NLVR2Run


def recipe(
    model: str = "runs/demo/tasks/scenes_vqa/model", scenes: PositiveInt = 8000, steps: PositiveInt = 1000
) -> NLVR2Run:
    """A few statements about many pairs in each step, every third pair about relations alone.

    Text assignment in between, the published second pre-training, takes away what questions taught about
    relations.

    Args:
        model: model folder that questions have taught, see `scenes_vqa`.
        scenes: number of different training scenes.
        steps: of training.
    """
    return NLVR2Run(
        recipe="scenes_nlvr2",
        model=_scenes.model("pairs"),
        init=Init(model=model),
        data=_scenes.data("scene-pairs", scenes, batch=24, about="related", every=3),
        statements=8,
        optim=_scenes.optim(steps, lr=5e-4, new=2.0),
        workers=1,
        save_every=100,
    )
