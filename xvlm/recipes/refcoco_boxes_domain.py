"""The published second pre-training for grounding: the box loss alone, on COCO and Visual Genome."""

from __future__ import annotations

from xvlm.recipes.base_4m import REGIONS, sources
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> GroundingRun:
    """Two passes at 224 pixels.

    Args:
        model: pre-trained model folder.
        root: as for `base_4m`.
    """
    return GroundingRun(
        recipe="refcoco_boxes_domain",
        init=Init(model=model),
        data=DataConfig(
            regions=sources(root, REGIONS), regions_batch=72, max_regions=5, region_captions=False
        ),
        optim=OptimConfig(epochs=2, lr=3e-5, warmup_share=0.1, weight_decay=0.01),
        precision="bf16",
        workers=4,
    )
