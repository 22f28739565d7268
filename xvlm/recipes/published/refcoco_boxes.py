"""The published fine-tuning for grounding with boxes on RefCOCO+, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig

PUBLISHED = FLOAT32 | {"best_metric": "grounding_acc50_inclusive"}


def recipe(
    model: str = "runs/refcoco_boxes_domain",
    root: str = "data/finetune",
    images: str = "images/coco",
    refs: str = "refcoco+:unc",
) -> GroundingRun:
    """Fine-tune for ten epochs.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with the released folder refcoco+ of refs(unc).p and instances.json.
        images: folder with COCO's train2014.
        refs: folder and split: refcoco:unc, refcoco+:unc, refcocog:umd or refcocog:google.
    """
    train2014 = f"{images}/train2014"
    return GroundingRun(
        recipe="published/refcoco_boxes",
        init=InitConfig(model=model, image_size=384),
        data=DataConfig(
            regions=(SourceConfig(f"refcoco:{root}/{refs}:train", train2014),),
            regions_batch_size=160,
            max_regions=1,
            region_captions=False,
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=ZeroShotValidation(grounding=f"refcoco:{root}/{refs}:val", image_root=train2014, limit=0),
        best_metric="grounding_acc50",
        precision="bf16",
        workers=4,
    )
