"""The published self-critical training of captions on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import FinetuneDev
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.self_critical import SelfCriticalRun

PUBLISHED = FLOAT32 | {"data.batch": 8}
"""The published loss went past DDP: eight models learnt apart, and the first one's was saved."""


def recipe(
    model: str = "runs/captioning",
    root: str = "data/finetune/coco_karpathy",
    images: str = "images/coco",
) -> SelfCriticalRun:
    """Five passes over the captions of COCO's Karpathy split, in batches of 64.

    The published batch of 8 x 8 was eight batches of 8, each with a model of its own (see `PUBLISHED`); 64 is
    what was meant, and its gradient has an eighth of the variance at the same number of steps.

    Args:
        model: model folder of `captioning`.
        root: as for `captioning`.
        images: as for `captioning`.
    """
    return SelfCriticalRun(
        recipe="captioning_scst",
        init=Init(model=model),
        data=FinetuneData(train=(SourceConfig(f"{root}/coco_karpathy_train.json", images),), batch=64),
        optim=OptimConfig(steps=44_275, lr=1e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=FinetuneDev(f"{root}/coco_karpathy_val.json", images),
        eval_every=500,
        keep_best="caption_cider",
        precision="bf16",
        workers=4,
    )
