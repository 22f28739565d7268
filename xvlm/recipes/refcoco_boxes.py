"""The published fine-tuning for grounding with boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig


def recipe(
    model: str = "runs/refcoco_boxes_domain", root: str = "data/finetune", images: str = "images/coco"
) -> GroundingRun:
    """Ten passes over RefCOCO+.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with refcoco+_train.json and refcoco+_val.json, published form.
        images: folder that image paths start from.
    """
    return GroundingRun(
        recipe="refcoco_boxes",
        init=Init(model=model, image_size=384),
        data=DataConfig(
            regions=(SourceConfig(f"{root}/refcoco+_train.json", images),),
            regions_batch=160,
            max_regions=1,
            region_captions=False,
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=DevConfig(grounding=f"{root}/refcoco+_val.json", image_root=images, limit=0),
        keep_best="grounding_acc50",
        precision="bf16",
        workers=4,
    )
