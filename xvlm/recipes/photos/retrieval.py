"""Retrieval on photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

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
from xvlm.tasks.retrieval import RetrievalRun


def recipe(
    model: str = "runs/photos/model", root: str = "photos", size: PositiveInt = 288, steps: PositiveInt = 600
) -> RetrievalRun:
    """Fine-tune for retrieval on the captions of a folder of photos, at a higher resolution.

    Args:
        model: model folder to start from.
        root: folder with `train.jsonl` and `dev.jsonl`, see `photos/pretrain`.
        size: height and width of the images, in pixels.
        steps: number of training steps.
    """
    data = photos.recipe(root).data
    return RetrievalRun(
        recipe="photos/retrieval",
        model=model_with(("contrastive", "matching")),
        init=InitConfig(model=model, image_size=size),
        data=replace(
            without_stream(data, "regions"), pairs_batch_size=64, captions_per_image=2, word_dropout=0.1
        ),
        losses=LossConfig(mlm=0.0, bbox=0.0, giou=0.0, uniform_negative_ratio=0.5),
        optim=optim(steps, lr=3e-4, towers=0.3),
        validation=ZeroShotValidation(retrieval=f"{root}/dev.jsonl", limit=0, rerank_top_k=32),
        precision="bf16",
        workers=1,
        save_every=100,
    )
