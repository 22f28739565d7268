"""The published pre-training on 16 million images: as `base_4m`, with CC12M, OpenImages and Objects365."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes.published import base_4m
from xvlm.tasks.pretrain import PretrainRun

PAIRS = (*base_4m.PAIRS, "cc12m")
REGIONS = (*base_4m.REGIONS, "openimages", "obj365", "refcoco_rm_leak")
PUBLISHED = {"data.region_texts_per_batch": 3072}


def recipe(
    root: str = "data/pretrain",
    text: str = "bert-base-uncased",
    vision: str = "timm",
    mix: str = "",
) -> PretrainRun:
    """Pre-train in batches three times as large, on shorter texts.

    The published region files of this size hold word pieces with spaces between them (`tokenized`); ordinary
    text is read the same.

    Args:
        root: see `base_4m`; also holds cc12m, openimages, obj365 and refcoco_rm_leak.
        text: see `base_4m`.
        vision: see `base_4m`.
        mix: see `base_4m`.
    """
    run = base_4m.recipe(root, text, vision, mix)
    streams = base_4m.streams(root, PAIRS, REGIONS, mix)
    regions = streams["regions"] if mix else tuple(replace(one, tokenized=True) for one in streams["regions"])
    data = replace(
        run.data,
        pairs=streams["pairs"],
        regions=regions,
        pairs_batch_size=3072,
        regions_batch_size=1152,
        max_words=30,
        max_tokens=30,
        max_masks=6,
    )
    optim = replace(run.optim, steps=200_640)  # 38 x 5,280
    return replace(run, recipe="published/base_16m", data=data, optim=optim)
