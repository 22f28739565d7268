"""Shared by the fine-tuning recipes on photographs."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.recipes.photos import pretrain as photos


def model(heads: tuple[str, ...]) -> ModelConfig:
    """Return the fields of the model that a fine-tuning run decides."""
    own = photos.recipe().model
    return ModelConfig(
        VisionConfig(patch_dropout=own.vision.patch_dropout),
        TextConfig(dropout=own.text.dropout),
        heads=heads,
    )


def optim(steps: int, lr: float, towers: float) -> OptimConfig:
    """Return the schedule of a short run; `towers` is the learning-rate multiplier of both encoders."""
    return OptimConfig(
        steps=steps,
        lr=lr,
        new_lr_multiplier=2.0,
        vision_lr_multiplier=towers,
        text_lr_multiplier=towers,
        warmup_steps=steps // 10,
        weight_decay=0.02,
        ema_decay=0.995,
        schedule="cosine",
    )
