"""The published fine-tuning for grounding without boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.weak_grounding import WeakGroundingRun

PUBLISHED = FLOAT32 | {"keep_best": "weak_grounding_acc_inclusive"}


def recipe(
    model: str = "runs/base",
    root: str = "data/finetune",
    images: str = "images/coco",
    refs: str = "refcoco+:unc",
) -> WeakGroundingRun:
    """Five passes; the boxes are not looked at.

    Args:
        model: pre-trained model folder.
        root: holds the released folder: refcoco+ with refs(unc).p, instances.json and dets.json.
        images: folder with COCO's train2014.
        refs: which folder, and who divided it: refcoco:unc, refcoco+:unc, refcocog:umd, refcocog:google.
    """
    train2014, folder = f"{images}/train2014", f"{root}/{refs.split(':')[0]}"
    return WeakGroundingRun(
        recipe="refcoco_weak",
        init=Init(model=model, image_size=384),
        data=DataConfig(
            pairs=(SourceConfig(f"refcoco:{root}/{refs}:train", train2014),),
            pairs_batch=160,
            crop=False,
            boxes_as_captions=True,
            max_words=30,
        ),
        optim=OptimConfig(epochs=5, lr=2e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=DevConfig(
            grounding=f"refcoco:{root}/{refs}:val",
            image_root=train2014,
            limit=0,
            detections=f"{folder}/dets.json",
        ),
        keep_best="weak_grounding_acc",
        precision="bf16",
        workers=4,
    )
