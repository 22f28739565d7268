"""Captions of photographs, from the model of `photos`: for 2 CPU cores."""

from __future__ import annotations

from xvlm.ranges import PositiveInt
from xvlm.recipes._photos import model as model_with
from xvlm.recipes._photos import optim
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import FinetuneDev
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.captioning import CaptioningRun


def recipe(model: str = "runs/photos/model", root: str = "photos", steps: PositiveInt = 800) -> CaptioningRun:
    """All captions of a folder of photos.

    Args:
        model: model folder to begin from.
        root: folder with `train.jsonl` and `dev.jsonl`, see `photos`.
        steps: of training.
    """
    return CaptioningRun(
        recipe="photos_captioning",
        model=model_with(("captions",)),
        init=Init(model=model),
        data=FinetuneData((SourceConfig(f"{root}/train.jsonl"),), batch=32, max_words=30, max_tokens=30),
        captions=4,
        optim=optim(steps, lr=5e-4, towers=0.1),
        dev=FinetuneDev(f"{root}/dev.jsonl"),
        precision="bf16",
        workers=1,
        save_every=100,
    )
