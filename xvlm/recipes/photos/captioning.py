"""Captions of photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.photos._shared import model as model_with
from xvlm.recipes.photos._shared import optim
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation


def recipe(model: str = "runs/photos/model", root: str = "photos", steps: PositiveInt = 800) -> CaptioningRun:
    """Fine-tune on all captions of a folder of photos.

    Args:
        model: model folder to start from.
        root: folder with `train.jsonl` and `dev.jsonl`, see `photos/pretrain`.
        steps: number of training steps.
    """
    return CaptioningRun(
        recipe="photos/captioning",
        model=model_with(("caption_decoder",)),
        init=InitConfig(model=model),
        data=FinetuneData((SourceConfig(f"{root}/train.jsonl"),), batch_size=32, max_words=30, max_tokens=30),
        captions_per_image=4,
        optim=optim(steps, lr=5e-4, towers=0.1),
        validation=TaskValidation(f"{root}/dev.jsonl"),
        precision="bf16",
        workers=1,
        save_every=100,
    )
