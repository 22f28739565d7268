"""The published second pre-training for grounding: the box loss alone, on COCO and Visual Genome."""

from __future__ import annotations

from xvlm.recipes.base_4m import REGIONS, sources
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig

PUBLISHED = {"data.region_captions": True}
"""A caption takes up to one of an image's five texts; it has no box, and no loss."""


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> GroundingRun:
    """3,320 steps of 72 images at 224 pixels, three quarters of a pass.

    The published length is 2 x 318,547 / (8 x 24) steps, as if a step held 192 images; it holds 192 texts.
    With `--faithful` these are filled up or cut to 192.

    Args:
        model: pre-trained model folder.
        root: as for `base_4m`.
    """
    return GroundingRun(
        recipe="refcoco_boxes_domain",
        init=Init(model=model),
        data=DataConfig(
            regions=sources(root, REGIONS),
            regions_batch=72,
            max_regions=5,
            region_rows=192,
            region_captions=False,
        ),
        published_mirror="always",
        optim=OptimConfig(steps=3320, lr=3e-5, warmup_share=0.1, weight_decay=0.01),
        precision="bf16",
        workers=4,
    )
