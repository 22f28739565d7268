"""The published second pre-training for captions: a language model on the pairs of `base_4m`, 224 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.published.base_4m import PAIRS, sources
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig


def recipe(model: str = "runs/base", root: str = "data/pretrain") -> CaptioningRun:
    """Train for two epochs, without a prompt.

    Args:
        model: pre-trained model folder.
        root: see `base_4m`.
    """
    return CaptioningRun(
        recipe="published/captioning_domain",
        init=InitConfig(model=model),
        data=FinetuneData(train=sources(root, PAIRS), batch_size=1024, crop_scale=(0.2, 1.0)),
        optim=OptimConfig(epochs=2, lr=3e-5, warmup_ratio=0.1, weight_decay=0.01),
        prompt="",
        label_smoothing=0.0,
        precision="bf16",
        workers=4,
    )
