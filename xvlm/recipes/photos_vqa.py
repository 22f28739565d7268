"""Questions about photographs, from the model of `photos`: for 2 CPU cores."""

from __future__ import annotations

from xvlm.ranges import PositiveInt
from xvlm.recipes._photos import model as model_with
from xvlm.recipes._photos import optim
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import FinetuneDev
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.vqa import VQARun


def recipe(model: str = "runs/photos/model", root: str = "questions", steps: PositiveInt = 600) -> VQARun:
    """The questions of a folder, for example of DAQUAR.

    Args:
        model: model folder to begin from.
        root: folder with `train.json` and `dev.json`, published form of questions.
        steps: of training.
    """
    return VQARun(
        recipe="photos_vqa",
        model=model_with(("answers",)),
        init=Init(model=model),
        data=FinetuneData((SourceConfig(f"{root}/train.json"),), batch=48, flip=False),
        optim=optim(steps, lr=5e-4, towers=0.1),
        dev=FinetuneDev(f"{root}/dev.json"),
        precision="bf16",
        workers=1,
        save_every=100,
    )
