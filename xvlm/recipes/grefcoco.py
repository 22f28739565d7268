"""Detection on gRefCOCO (phrases with several boxes, one or none), from a published model, at 384 pixels.

The published code has no such task: the schedule is that of `published/refcoco_boxes`.
"""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.detection import DetectionRun
from xvlm.tasks.pretrain import DataConfig


def recipe(
    model: str = "runs/refcoco_boxes_domain", root: str = "data/finetune", images: str = "images/coco"
) -> DetectionRun:
    """Fine-tune for ten epochs.

    Args:
        model: model folder of the domain stage of RefCOCO, or a pre-trained one.
        root: folder with the released folder grefcoco of grefs(unc).json and instances.json.
        images: folder with COCO's train2014.
    """
    return DetectionRun(
        recipe="grefcoco",
        model=ModelConfig(box_head="mlp", heads=("box", "detection")),
        init=InitConfig(model=model, image_size=384),
        data=DataConfig(
            regions=(SourceConfig(f"grefcoco:{root}/grefcoco:unc:train", f"{images}/train2014"),),
            regions_batch_size=64,
            max_regions=8,
            absent_texts=4,
            region_captions=False,
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, new_lr_multiplier=10.0, warmup_ratio=0.1, weight_decay=0.01),
        precision="bf16",
        workers=4,
    )
