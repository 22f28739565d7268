"""Statements about scene pairs, from the model of `scenes/vqa`, for 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.scenes import _shared as _scenes
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.nlvr2 import NLVR2Run


def recipe(
    model: str = "runs/demo/tasks/scenes_vqa/model", scenes: PositiveInt = 8000, steps: PositiveInt = 1000
) -> NLVR2Run:
    """Fine-tune on a few statements about each pair; every third pair has only statements about relations.

    Text assignment in between, the published second pre-training, takes away what questions taught about
    relations.

    Args:
        model: model folder of `scenes/vqa`.
        scenes: number of different training scenes.
        steps: number of training steps.
    """
    return NLVR2Run(
        recipe="scenes/nlvr2",
        model=_scenes.model("pair_classifier"),
        init=InitConfig(model=model),
        data=_scenes.data("scene-pairs", scenes, batch=24, about="related", every=3),
        statements_per_pair=8,
        optim=_scenes.optim(steps, lr=5e-4, new=2.0),
        workers=1,
        save_every=100,
    )
