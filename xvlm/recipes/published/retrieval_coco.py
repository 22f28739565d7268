"""The published fine-tuning for retrieval on COCO, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.retrieval import RetrievalRun

PUBLISHED = FLOAT32 | {"validation.rerank": "published"}


def recipe(
    model: str = "runs/base", root: str = "data/finetune", images: str = "images/coco"
) -> RetrievalRun:
    """Fine-tune for ten epochs on COCO's Karpathy split.

    Args:
        model: pre-trained model folder (`xvlm convert`, or a run).
        root: folder with coco_train.json and coco_val.json, published form.
        images: folder that image paths are relative to.
    """
    return RetrievalRun(
        recipe="published/retrieval_coco",
        init=InitConfig(model=model, image_size=384),
        data=DataConfig(
            pairs=(SourceConfig(f"{root}/coco_train.json", images),),
            pairs_batch_size=160,
            crop_scale=(0.5, 1.0),
            max_words=30,
        ),
        optim=OptimConfig(epochs=10, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        validation=ZeroShotValidation(
            retrieval=f"{root}/coco_val.json", image_root=images, limit=0, rerank_top_k=256
        ),
        best_metric="r_mean",
        precision="bf16",
        workers=4,
    )
