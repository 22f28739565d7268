"""The published self-critical training of captions on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation
from xvlm.tasks.self_critical import SelfCriticalRun

PUBLISHED = FLOAT32 | {"data.batch_size": 8}
"""The published loss bypassed DDP: eight models were trained independently, and the first one was saved."""


def recipe(
    model: str = "runs/captioning",
    root: str = "data/finetune/coco_karpathy",
    images: str = "images/coco",
) -> SelfCriticalRun:
    """Train for five epochs on COCO's Karpathy split, in batches of 64.

    The published batch of 8 x 8 was eight batches of 8, each with a model of its own (see `PUBLISHED`); 64 is
    what was meant, and its gradient has an eighth of the variance at the same number of steps.

    Args:
        model: model folder of `captioning`.
        root: see `captioning`.
        images: see `captioning`.
    """
    return SelfCriticalRun(
        recipe="published/captioning_scst",
        init=InitConfig(model=model),
        data=FinetuneData(train=(SourceConfig(f"{root}/coco_karpathy_train.json", images),), batch_size=64),
        optim=OptimConfig(steps=44_275, lr=1e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=TaskValidation(f"{root}/coco_karpathy_val.json", images),
        eval_every=500,
        best_metric="caption_cider",
        precision="bf16",
        workers=4,
    )
