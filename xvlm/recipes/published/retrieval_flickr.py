"""The published fine-tuning for retrieval on Flickr30K, at 384 pixels."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes.published import retrieval_coco
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.retrieval import RetrievalRun

PUBLISHED = retrieval_coco.PUBLISHED


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> RetrievalRun:
    """Fine-tune for ten epochs on Flickr30K.

    Args:
        model: see `retrieval_coco`.
        root: folder with flickr30k_train.json and flickr30k_val.json, published form.
        images: folder that image paths are relative to.
    """
    run = retrieval_coco.recipe(model, root, images)
    return replace(
        run,
        recipe="published/retrieval_flickr",
        data=replace(run.data, pairs=(SourceConfig(f"{root}/flickr30k_train.json", images),)),
        validation=replace(run.validation, retrieval=f"{root}/flickr30k_val.json", rerank_top_k=128),
    )
