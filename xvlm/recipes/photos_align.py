"""First stage of `photos`: align pre-trained towers by the contrastive losses alone, in large batches."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes import photos
from xvlm.run import OptimConfig
from xvlm.tasks.pretrain import LossConfig, PretrainRun


def recipe(root: str = "photos") -> PretrainRun:
    """Contrastive alignment on a folder of photos.

    The matching loss learns nothing before the contrastive one has aligned the towers, and costs several
    times as much: this stage leaves it out.

    Args:
        root: as for `photos`.
    """
    run = photos.recipe(root)
    return replace(
        run,
        recipe="photos_align",
        seed=0,
        data=replace(run.data, pairs_batch=128, regions_batch=32, word_dropout=0.1),
        losses=LossConfig(itm=0.0, mlm=0.0, bbox=0.0, giou=0.0),
        optim=OptimConfig(
            steps=1400,
            lr=2e-4,
            new_multiplier=4.0,
            warmup=50,
            weight_decay=0.02,
            ema=0.99,
            schedule="cosine",
            final_lr=0.3,
        ),
    )
