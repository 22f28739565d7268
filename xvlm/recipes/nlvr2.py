"""The published fine-tuning for statements about pairs of images (NLVR2), at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import FinetuneDev
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.nlvr2 import NLVR2Run

PUBLISHED = FLOAT32 | {"optim.new_multiplier": 1.0}
"""Its wrapper hid from the optimiser which parameters are new: the head learnt at the common rate."""


def recipe(
    model: str = "runs/nlvr2_domain", root: str = "data/finetune", images: str = "images/nlvr2"
) -> NLVR2Run:
    """Ten passes over NLVR2.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with nlvr_train.json, published form.
        images: folder that image paths start from.
    """
    return NLVR2Run(
        recipe="nlvr2",
        init=Init(model=model, image_size=384),
        data=FinetuneData(train=(SourceConfig(f"{root}/nlvr_train.json", images),), batch=80, max_words=30),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=FinetuneDev(f"{root}/nlvr_dev.json", images),
        keep_best="nlvr2_acc",
        precision="bf16",
        workers=4,
    )
