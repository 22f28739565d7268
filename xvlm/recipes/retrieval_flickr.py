"""The published fine-tuning for retrieval on Flickr30K, at 384 pixels."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes import retrieval_coco
from xvlm.tasks._build import SourceConfig
from xvlm.tasks.retrieval import RetrievalRun

PUBLISHED = retrieval_coco.PUBLISHED


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> RetrievalRun:
    """Ten passes over the captions of Flickr30K.

    Args:
        model: as for `retrieval_coco`.
        root: folder with flickr30k_train.json and flickr30k_val.json, published form.
        images: folder that image paths start from.
    """
    run = retrieval_coco.recipe(model, root, images)
    return replace(
        run,
        recipe="retrieval_flickr",
        data=replace(run.data, pairs=(SourceConfig(f"{root}/flickr30k_train.json", images),)),
        dev=replace(run.dev, retrieval=f"{root}/flickr30k_val.json", top=128),
    )
