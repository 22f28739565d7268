"""Detection on photographs, from the model of `photos/pretrain`, for 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.common.ranges import PositiveInt
from xvlm.recipes.photos import pretrain as photos
from xvlm.recipes.photos._shared import model as model_with
from xvlm.recipes.photos._shared import optim
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.detection import DetectionRun
from xvlm.tasks.pretrain import LossConfig


def recipe(model: str = "runs/photos/model", root: str = "photos", steps: PositiveInt = 600) -> DetectionRun:
    """Fine-tune with the losses of boxes and of detection on phrases of a folder of photos.

    Absent phrases are those of other photos that nothing in a photo's texts speaks for
    (`data/sources/absent.py`).

    Args:
        model: model folder to start from.
        root: folder with `train.jsonl` and `dev_grounding.json`, see `photos/pretrain`.
        steps: number of training steps.
    """
    data = photos.recipe(root).data
    return DetectionRun(
        recipe="photos/detection",
        model=model_with(("contrastive", "matching", "box", "detection")),
        init=InitConfig(model=model),
        data=replace(
            without_stream(data, "pairs"),
            regions=(SourceConfig(f"absent:{root}/train.jsonl"),),
            regions_batch_size=64,
            max_regions=6,
            absent_texts=6,
        ),
        losses=LossConfig(itc=0.0, itm=0.0, mlm=0.0, bbox=5.0, giou=2.0, detection=1.0),
        optim=optim(steps, lr=5e-4, towers=0.0),
        validation=ZeroShotValidation(grounding=f"{root}/dev_grounding.json", limit=0),
        precision="bf16",
        workers=1,
        save_every=100,
    )
