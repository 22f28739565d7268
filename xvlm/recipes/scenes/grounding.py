"""Grounding with boxes on scenes, from the demo's model, for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.common.ranges import PositiveInt
from xvlm.recipes import demo
from xvlm.recipes.scenes import _shared as _scenes
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import LossConfig


def recipe(
    model: str = "runs/demo/model", scenes: PositiveInt = 8000, steps: PositiveInt = 800
) -> GroundingRun:
    """Fine-tune with the box loss alone on the demo's scenes.

    Args:
        model: model folder of the demo.
        scenes: number of different training scenes.
        steps: number of training steps.
    """
    data = demo.recipe(scenes).data
    return GroundingRun(
        recipe="scenes/grounding",
        model=_scenes.model("box"),
        init=InitConfig(model=model),
        data=replace(without_stream(data, "pairs"), regions_batch_size=32, absent_texts=0),
        losses=LossConfig(itc=0.0, itm=0.0, mlm=0.0, bbox=5.0, giou=2.0),
        optim=_scenes.optim(steps),
        workers=1,
        save_every=100,
    )
