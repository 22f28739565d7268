"""Grounding without boxes on scenes, from the demo's model, for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.common.ranges import PositiveInt
from xvlm.recipes import demo
from xvlm.recipes.scenes import _shared as _scenes
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.weak_grounding import WeakGroundingRun


def recipe(
    model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 300
) -> WeakGroundingRun:
    """Fine-tune on captions and phrases as texts of whole scenes, without boxes.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: number of training steps.
    """
    data = demo.recipe(scenes).data
    return WeakGroundingRun(
        recipe="scenes/weak_grounding",
        model=_scenes.model("contrastive", "matching"),
        init=InitConfig(model=model),
        data=replace(
            without_stream(data, "regions"), pairs_batch_size=32, captions_per_image=2, boxes_as_captions=True
        ),
        optim=_scenes.optim(steps, lr=2e-4),
        workers=1,
        save_every=100,
    )
