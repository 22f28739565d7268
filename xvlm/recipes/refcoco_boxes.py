"""The published fine-tuning for grounding with boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig

PUBLISHED = FLOAT32 | {"keep_best": "grounding_acc50_inclusive"}


def recipe(
    model: str = "runs/refcoco_boxes_domain",
    root: str = "data/finetune",
    images: str = "images/coco",
    refs: str = "refcoco+:unc",
) -> GroundingRun:
    """Ten passes.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: holds the released folder: refcoco+ with refs(unc).p and instances.json.
        images: folder with COCO's train2014.
        refs: which folder, and who divided it: refcoco:unc, refcoco+:unc, refcocog:umd, refcocog:google.
    """
    train2014 = f"{images}/train2014"
    return GroundingRun(
        recipe="refcoco_boxes",
        init=Init(model=model, image_size=384),
        data=DataConfig(
            regions=(SourceConfig(f"refcoco:{root}/{refs}:train", train2014),),
            regions_batch=160,
            max_regions=1,
            region_captions=False,
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=DevConfig(grounding=f"refcoco:{root}/{refs}:val", image_root=train2014, limit=0),
        keep_best="grounding_acc50",
        precision="bf16",
        workers=4,
    )
