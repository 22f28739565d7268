"""The published second pre-training for grounding: the box loss alone, on COCO and Visual Genome."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.published.base_4m import REGIONS, sources
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig

PUBLISHED = {
    "data.region_captions": True,
    "data.region_texts_per_batch": 192,
    "published_mirror": "always",
}
"""A caption may be one of an image's five texts there, though it has no box and no loss."""


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> GroundingRun:
    """Train for 3,320 steps of 72 images at 224 pixels, three quarters of an epoch.

    The published length is 2 x 318,547 / (8 x 24) steps, as if a step held 192 images; it holds 192 texts.
    With `--faithful` texts are dropped or repeated to reach 192.

    Args:
        model: pre-trained model folder.
        root: see `base_4m`.
    """
    return GroundingRun(
        recipe="published/refcoco_boxes_domain",
        init=InitConfig(model=model),
        data=DataConfig(
            regions=sources(root, REGIONS),
            regions_batch_size=72,
            max_regions=5,
            region_captions=False,
        ),
        optim=OptimConfig(steps=3320, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01),
        precision="bf16",
        workers=4,
    )
