"""Captions of scenes, from the model of `scenes/vqa`, for 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.scenes import _shared as _scenes
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.init import InitConfig


def recipe(
    model: str = "runs/demo/tasks/scenes_vqa/model", scenes: PositiveInt = 8000, steps: PositiveInt = 2100
) -> CaptioningRun:
    """Fine-tune on two captions of each scene.

    Args:
        model: model folder of `scenes/vqa`, which has learnt shapes and colours from questions.
        scenes: number of different training scenes.
        steps: number of training steps.
    """
    return CaptioningRun(
        recipe="scenes/captioning",
        model=_scenes.model("caption_decoder"),
        init=InitConfig(model=model),
        data=_scenes.data("scenes", scenes, batch=48),
        captions_per_image=2,
        label_smoothing=0.0,
        optim=_scenes.optim(steps),
        workers=1,
        save_every=100,
    )
