"""The published fine-tuning for retrieval on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.retrieval import RetrievalRun

PUBLISHED = FLOAT32 | {"dev.rerank": "published"}


def recipe(
    model: str = "runs/base", root: str = "data/finetune", images: str = "images/coco"
) -> RetrievalRun:
    """Ten passes over the captions of COCO's Karpathy split.

    Args:
        model: pre-trained model folder (`xvlm convert`, or a run).
        root: folder with coco_train.json and coco_val.json, published form.
        images: folder that image paths start from.
    """
    return RetrievalRun(
        recipe="retrieval_coco",
        init=Init(model=model, image_size=384),
        data=DataConfig(
            pairs=(SourceConfig(f"{root}/coco_train.json", images),),
            pairs_batch=160,
            scale=(0.5, 1.0),
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        dev=DevConfig(retrieval=f"{root}/coco_val.json", image_root=images, limit=0, top=256),
        keep_best="r_mean",
        precision="bf16",
        workers=4,
    )
