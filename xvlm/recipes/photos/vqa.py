"""Questions about photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.photos._shared import model as model_with
from xvlm.recipes.photos._shared import optim
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation
from xvlm.tasks.vqa import VQARun


def recipe(model: str = "runs/photos/model", root: str = "questions", steps: PositiveInt = 600) -> VQARun:
    """Fine-tune on the questions of a folder, for example of DAQUAR.

    Args:
        model: model folder to start from.
        root: folder with `train.json` and `dev.json`, published form of questions.
        steps: number of training steps.
    """
    return VQARun(
        recipe="photos/vqa",
        model=model_with(("vqa_decoder",)),
        init=InitConfig(model=model),
        data=FinetuneData((SourceConfig(f"{root}/train.json"),), batch_size=48, random_flip=False),
        optim=optim(steps, lr=5e-4, towers=0.1),
        validation=TaskValidation(f"{root}/dev.json"),
        precision="bf16",
        workers=1,
        save_every=100,
    )
