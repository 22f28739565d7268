"""Retrieval on photographs, from the model of `photos`: for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.ranges import PositiveInt
from xvlm.recipes import photos
from xvlm.recipes._photos import model as model_with
from xvlm.recipes._photos import optim
from xvlm.tasks._build import Init
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import LossConfig
from xvlm.tasks.retrieval import RetrievalRun


def recipe(
    model: str = "runs/photos/model", root: str = "photos", size: PositiveInt = 288, steps: PositiveInt = 600
) -> RetrievalRun:
    """Contrastive and matching losses on the captions of a folder of photos, at a higher resolution.

    Args:
        model: model folder to begin from.
        root: folder with `train.jsonl` and `dev.jsonl`, see `photos`.
        size: side of the images, in pixels.
        steps: of training.
    """
    data = photos.recipe(root).data
    return RetrievalRun(
        recipe="photos_retrieval",
        model=model_with(("contrastive", "matching")),
        init=Init(model=model, image_size=size),
        data=replace(data, regions=(), pairs_batch=64, captions=2, word_dropout=0.1),
        losses=LossConfig(mlm=0.0, bbox=0.0, giou=0.0, easy_negatives=0.5),
        optim=optim(steps, lr=3e-4, towers=0.3),
        dev=DevConfig(retrieval=f"{root}/dev.jsonl", limit=0, top=32),
        precision="bf16",
        workers=1,
        save_every=100,
    )
