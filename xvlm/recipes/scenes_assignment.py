"""Text assignment on scenes, from the demo's model: what a model learns before statements about pairs."""

from __future__ import annotations

from xvlm.recipes import _scenes
from xvlm.tasks._build import Init
from xvlm.tasks.assignment import AssignmentRun


def recipe(model: str = "runs/demo/model", scenes: int = 8000, steps: int = 300) -> AssignmentRun:
    """Which of two scenes does a caption describe, or neither?

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: of training.
    """
    return AssignmentRun(
        recipe="scenes_assignment",
        model=_scenes.model("assignment"),
        init=Init(model=model),
        data=_scenes.data("scenes", scenes, batch=32),
        optim=_scenes.optim(steps, lr=5e-4),
        workers=1,
        save_every=100,
    )
