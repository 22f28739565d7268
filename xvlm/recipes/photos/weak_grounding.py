"""Grounding without boxes on photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.photos import pretrain as photos
from xvlm.recipes.photos._shared import model as model_with
from xvlm.recipes.photos._shared import optim
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.pretrain import LossConfig
from xvlm.tasks.weak_grounding import WeakGroundingRun


def recipe(
    model: str = "runs/photos/model", root: str = "photos", steps: PositiveInt = 400
) -> WeakGroundingRun:
    """Fine-tune on captions and phrases of a folder of photos as texts of whole images, without boxes.

    Args:
        model: model folder to start from.
        root: folder with `train.jsonl` and `dev_grounding.json`, see `photos/pretrain`.
        steps: number of training steps.
    """
    data = photos.recipe(root).data
    return WeakGroundingRun(
        recipe="photos/weak_grounding",
        model=model_with(("contrastive", "matching")),
        init=InitConfig(model=model),
        data=replace(
            without_stream(data, "regions"), pairs_batch_size=48, captions_per_image=4, boxes_as_captions=True
        ),
        losses=LossConfig(mlm=0.0, bbox=0.0, giou=0.0, uniform_negative_ratio=0.5),
        optim=optim(steps, lr=3e-4, towers=0.1),
        validation=ZeroShotValidation(grounding=f"{root}/dev_grounding.json", limit=0),
        precision="bf16",
        workers=1,
        save_every=100,
    )
