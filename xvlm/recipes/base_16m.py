"""The published pre-training on 16 million images: as `base_4m`, with CC12M, OpenImages and Objects365."""

from __future__ import annotations

from dataclasses import replace

from xvlm.recipes import base_4m
from xvlm.tasks.pretrain import PretrainRun

PAIRS = (*base_4m.PAIRS, "cc12m")
REGIONS = (*base_4m.REGIONS, "openimages", "obj365", "refcoco_rm_leak")


def recipe(root: str = "data/pretrain", text: str = "bert-base-uncased", vision: str = "timm") -> PretrainRun:
    """Pre-training in batches three times as large, on shorter texts.

    The published region files of this size hold word pieces with spaces between them (`tokenized`); ordinary
    text is read the same.

    Args:
        root: as for `base_4m`, with cc12m, openimages, obj365 and refcoco_rm_leak besides.
        text: as for `base_4m`.
        vision: as for `base_4m`.
    """
    run = base_4m.recipe(root, text, vision)
    data = replace(
        run.data,
        pairs=base_4m.sources(root, PAIRS),
        regions=tuple(replace(one, tokenized=True) for one in base_4m.sources(root, REGIONS)),
        pairs_batch=3072,
        regions_batch=1152,
        region_rows=3072,
        max_words=30,
        max_tokens=30,
        max_masks=6,
    )
    optim = replace(run.optim, steps=200_640)  # 38 x 5,280
    return replace(run, recipe="base_16m", data=data, optim=optim)
