"""The published fine-tuning for grounding without boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.weak_grounding import WeakGroundingRun

PUBLISHED = FLOAT32 | {"best_metric": "weak_grounding_acc_inclusive"}


def recipe(
    model: str = "runs/base",
    root: str = "data/finetune",
    images: str = "images/coco",
    refs: str = "refcoco+:unc",
) -> WeakGroundingRun:
    """Fine-tune for five epochs; the boxes are not used.

    Args:
        model: pre-trained model folder.
        root: folder with the released folder refcoco+ of refs(unc).p, instances.json and dets.json.
        images: folder with COCO's train2014.
        refs: folder and split: refcoco:unc, refcoco+:unc, refcocog:umd or refcocog:google.
    """
    train2014, folder = f"{images}/train2014", f"{root}/{refs.split(':')[0]}"
    return WeakGroundingRun(
        recipe="published/refcoco_weak",
        init=InitConfig(model=model, image_size=384),
        data=DataConfig(
            pairs=(SourceConfig(f"refcoco:{root}/{refs}:train", train2014),),
            pairs_batch_size=160,
            random_crop=False,
            boxes_as_captions=True,
            max_words=30,
        ),
        optim=OptimConfig(epochs=5, lr=2e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=ZeroShotValidation(
            grounding=f"refcoco:{root}/{refs}:val",
            image_root=train2014,
            limit=0,
            detections=f"{folder}/dets.json",
        ),
        best_metric="weak_grounding_acc",
        precision="bf16",
        workers=4,
    )
