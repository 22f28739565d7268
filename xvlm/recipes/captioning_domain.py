"""The published second pre-training for captions: a language model on the pairs of `base_4m`, 224 pixels."""

from __future__ import annotations

from xvlm.recipes.base_4m import PAIRS, sources
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.captioning import CaptioningRun


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> CaptioningRun:
    """Two passes, without a prompt.

    Args:
        model: pre-trained model folder.
        root: as for `base_4m`.
    """
    return CaptioningRun(
        recipe="captioning_domain",
        init=Init(model=model),
        data=FinetuneData(train=sources(root, PAIRS), batch=1024, scale=(0.2, 1.0)),
        optim=OptimConfig(epochs=2, lr=3e-5, warmup_share=0.1, weight_decay=0.01),
        prompt="",
        smoothing=0.0,
        precision="bf16",
        workers=4,
    )
