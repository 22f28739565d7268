"""Grounding with boxes on photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.photos import pretrain as photos
from xvlm.recipes.photos._shared import model as model_with
from xvlm.recipes.photos._shared import optim
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import LossConfig


def recipe(
    model: str = "runs/photos/model", root: str = "photos", size: PositiveInt = 288, steps: PositiveInt = 600
) -> GroundingRun:
    """Fine-tune with the box loss alone on phrases of a folder of photos, at a higher resolution.

    Args:
        model: model folder to start from.
        root: folder with `train.jsonl` and `dev_grounding.json`, see `photos/pretrain`.
        size: height and width of the images, in pixels.
        steps: number of training steps.
    """
    data = photos.recipe(root).data
    return GroundingRun(
        recipe="photos/grounding",
        model=model_with(("box", "matching")),
        init=InitConfig(model=model, image_size=size),
        data=replace(
            without_stream(data, "pairs"),
            regions=data.pairs,
            regions_batch_size=64,
            max_regions=6,
            absent_texts=0,
        ),
        losses=LossConfig(itc=0.0, itm=0.0, mlm=0.0, bbox=5.0, giou=2.0),
        optim=optim(steps, lr=5e-4, towers=0.1),
        validation=ZeroShotValidation(grounding=f"{root}/dev_grounding.json", limit=0),
        precision="bf16",
        workers=1,
        save_every=100,
    )
