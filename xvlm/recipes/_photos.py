"""What the fine-tuning recipes on photographs share: the small towers of `photos`, and 2 CPU cores."""

from __future__ import annotations

from dataclasses import replace

from xvlm.model.xvlm import ModelConfig, Part
from xvlm.recipes import photos
from xvlm.run import OptimConfig


def model(parts: tuple[Part, ...]) -> ModelConfig:
    """The model of `photos` with other parts: what it hides while training is asked of the run."""
    return replace(photos.recipe().model, parts=parts)


def optim(steps: int, lr: float, towers: float) -> OptimConfig:
    """A short run's schedule, with the average of its weights; both towers learn at a share of the rate."""
    return OptimConfig(
        steps=steps,
        lr=lr,
        new_multiplier=2.0,
        vision_multiplier=towers,
        text_multiplier=towers,
        warmup=steps // 10,
        weight_decay=0.02,
        ema=0.995,
        schedule="cosine",
    )
