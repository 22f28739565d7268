"""First stage of `photos/pretrain`: align pre-trained encoders by contrastive losses, in large batches."""

from __future__ import annotations

from dataclasses import replace

from xvlm.config import OptimConfig
from xvlm.models.xvlm import PRETRAINING
from xvlm.recipes.photos import pretrain as photos
from xvlm.tasks.pretrain import LossConfig, PretrainRun


def recipe(root: str = "photos") -> PretrainRun:
    """Pre-train with the contrastive losses alone on a folder of photos.

    The matching loss learns nothing before the contrastive one has aligned the towers, and costs several
    times as much: this stage leaves it out.

    Args:
        root: see `photos/pretrain`.
    """
    run = photos.recipe(root)
    return replace(
        run,
        recipe="photos/align",
        seed=0,
        model=replace(run.model, heads=PRETRAINING),
        data=replace(
            run.data,
            regions=run.data.pairs,
            pairs_batch_size=128,
            regions_batch_size=32,
            absent_texts=0,
            word_dropout=0.1,
        ),
        losses=LossConfig(itm=0.0, mlm=0.0, bbox=0.0, giou=0.0, phrases=1.0),
        optim=OptimConfig(
            steps=650,
            lr=2e-4,
            new_lr_multiplier=4.0,
            warmup_steps=50,
            weight_decay=0.02,
            ema_decay=0.99,
            schedule="cosine",
            final_lr_ratio=0.3,
        ),
    )
