"""The published fine-tuning for statements about image pairs (NLVR2), at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation
from xvlm.tasks.nlvr2 import NLVR2Run

PUBLISHED = FLOAT32 | {"optim.new_lr_multiplier": 1.0}
"""The published wrapper hid from the optimiser which parameters are new: the head had the common rate."""


def recipe(
    model: str = "runs/nlvr2_domain", root: str = "data/finetune", images: str = "images/nlvr2"
) -> NLVR2Run:
    """Fine-tune for ten epochs on NLVR2.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with nlvr_train.json, published form.
        images: folder that image paths are relative to.
    """
    return NLVR2Run(
        recipe="published/nlvr2",
        init=InitConfig(model=model, image_size=384),
        data=FinetuneData(
            train=(SourceConfig(f"{root}/nlvr_train.json", images),), batch_size=80, max_words=30
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=TaskValidation(f"{root}/nlvr_dev.json", images),
        best_metric="nlvr2_acc",
        precision="bf16",
        workers=4,
    )
