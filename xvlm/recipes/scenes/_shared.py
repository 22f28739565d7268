"""Shared by the fine-tuning recipes on scenes."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.sources import SourceConfig


def optim(steps: int, lr: float = 1e-3, new: float = 1.0) -> OptimConfig:
    """Return the schedule of a short run; `new` is the learning-rate multiplier of new parameters."""
    return OptimConfig(
        steps=steps,
        lr=lr,
        new_lr_multiplier=new,
        decoder_lr_multiplier=new,
        warmup_steps=min(100, steps // 10),
        weight_decay=0.02,
        ema_decay=0.995,
        schedule="cosine",
    )


def model(*heads: str) -> ModelConfig:
    """Return a model with these heads; as in the demo, it has no dropout."""
    return ModelConfig(text=TextConfig(dropout=0.0), heads=heads)


def data(kind: str, count: int, batch: int, about: str = "", every: int = 2) -> FinetuneData:
    """Return uncropped scenes, randomly flipped, each kept in memory once it is rendered.

    Args:
        about: kinds of questions that are sampled more often, as the model learns them late.
        every: one of this many records is about these kinds alone.
    """
    train = [SourceConfig(f"{kind}:train:{count}", weight=every - 1, cache_in_memory=True)]
    if about:
        train.append(SourceConfig(f"{train[0].path}?about={about}", weight=1, cache_in_memory=True))
    return FinetuneData(train=tuple(train), batch_size=batch, random_crop=False, rand_augment=False)
