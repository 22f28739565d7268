"""Questions about scenes, from the demo's model: for 2 CPU cores."""

from __future__ import annotations

from xvlm.ranges import PositiveInt
from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.vqa import VQARun


def recipe(model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 2600) -> VQARun:
    """A few questions about many scenes in each step, half of the time about relations alone.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    return VQARun(
        recipe="scenes_vqa",
        model=_scenes.model("answers"),
        init=Init(model=model),
        data=_scenes.data("scene-questions", scenes, batch=40, about="relation"),
        questions=8,
        optim=_scenes.optim(steps, lr=5e-4, new=2.0),
        workers=1,
        save_every=100,
    )
