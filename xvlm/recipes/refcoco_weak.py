"""The published fine-tuning for grounding without boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.weak_grounding import WeakGroundingRun


def recipe(
    model: str = "runs/base", root: str = "data/finetune", images: str = "images/coco"
) -> WeakGroundingRun:
    """Five passes over RefCOCO+; its boxes are not looked at.

    Args:
        model: pre-trained model folder.
        root: folder with refcoco+_train.json, published form.
        images: folder that image paths start from.
    """
    return WeakGroundingRun(
        recipe="refcoco_weak",
        init=Init(model=model, image_size=384),
        data=DataConfig(
            pairs=(SourceConfig(f"{root}/refcoco+_train.json", images),),
            pairs_batch=160,
            crop=False,
            boxes_as_captions=True,
            max_words=30,
        ),
        optim=OptimConfig(epochs=5, lr=2e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=DevConfig(grounding=f"{root}/refcoco+_val.json", image_root=images, limit=0),
        keep_best="weak_grounding_acc",
        precision="bf16",
        workers=4,
    )
