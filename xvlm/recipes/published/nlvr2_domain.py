"""The published second pre-training for NLVR2: text assignment on the pairs of `base_4m`, at 224 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.published.base_4m import PAIRS, sources
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.text_assignment import TextAssignmentRun


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> TextAssignmentRun:
    """Train for two epochs (a configuration that later versions of the published code do not contain).

    Args:
        model: pre-trained model folder.
        root: see `base_4m`.
    """
    return TextAssignmentRun(
        recipe="published/nlvr2_domain",
        init=InitConfig(model=model),
        data=FinetuneData(train=sources(root, PAIRS), batch_size=1024, crop_scale=(0.2, 1.0)),
        optim=OptimConfig(epochs=2, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01),
        precision="bf16",
        workers=4,
    )
