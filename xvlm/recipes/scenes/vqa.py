"""Questions about scenes, from the demo's model, for 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.scenes import _shared as _scenes
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.vqa import VQARun


def recipe(model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 2600) -> VQARun:
    """Fine-tune on a few questions about each scene; every second scene has only questions about relations.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: number of training steps.
    """
    return VQARun(
        recipe="scenes/vqa",
        model=_scenes.model("vqa_decoder"),
        init=InitConfig(model=model),
        data=_scenes.data("scene-questions", scenes, batch=40, about="relation"),
        questions_per_image=8,
        optim=_scenes.optim(steps, lr=5e-4, new=2.0),
        workers=1,
        save_every=100,
    )
