"""The published fine-tuning for captions on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation

PUBLISHED = FLOAT32


def recipe(
    model: str = "runs/captioning_domain",
    root: str = "data/finetune/coco_karpathy",
    images: str = "images/coco",
) -> CaptioningRun:
    """Fine-tune for five epochs on COCO's Karpathy split.

    Args:
        model: model folder of the domain stage, or a pre-trained one.
        root: folder with coco_karpathy_train.json, published form.
        images: folder that image paths are relative to.
    """
    return CaptioningRun(
        recipe="published/captioning",
        init=InitConfig(model=model, image_size=384),
        data=FinetuneData(train=(SourceConfig(f"{root}/coco_karpathy_train.json", images),), batch_size=256),
        optim=OptimConfig(epochs=5, lr=1e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=TaskValidation(f"{root}/coco_karpathy_val.json", images),
        best_metric="caption_cider",
        precision="bf16",
        workers=4,
    )
