"""The published fine-tuning for captions on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import FinetuneDev
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.captioning import CaptioningRun

PUBLISHED = FLOAT32


def recipe(
    model: str = "runs/captioning_domain",
    root: str = "data/finetune/coco_karpathy",
    images: str = "images/coco",
) -> CaptioningRun:
    """Five passes over the captions of COCO's Karpathy split.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with coco_karpathy_train.json, published form.
        images: folder that image paths start from.
    """
    return CaptioningRun(
        recipe="captioning",
        init=Init(model=model, image_size=384),
        data=FinetuneData(train=(SourceConfig(f"{root}/coco_karpathy_train.json", images),), batch=256),
        optim=OptimConfig(epochs=5, lr=1e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=FinetuneDev(f"{root}/coco_karpathy_val.json", images),
        keep_best="caption_cider",
        precision="bf16",
        workers=4,
    )
