"""What the fine-tuning recipes on scenes share."""

from __future__ import annotations

from xvlm.model.text import TextConfig
from xvlm.model.xvlm import ModelConfig, Part
from xvlm.run import OptimConfig
from xvlm.tasks._build import SourceConfig
from xvlm.tasks._finetune import FinetuneData


def optim(steps: int, lr: float = 1e-3, new: float = 1.0) -> OptimConfig:
    """A short run's schedule, with the average of its weights; `new` times the rate for what a task adds."""
    return OptimConfig(
        steps=steps,
        lr=lr,
        new_multiplier=new,
        decoder_multiplier=new,
        warmup=min(100, steps // 10),
        weight_decay=0.02,
        ema=0.995,
        schedule="cosine",
    )


def model(*parts: Part) -> ModelConfig:
    """What the model keeps or gets; as in the demo, nothing is dropped while it trains."""
    return ModelConfig(text=TextConfig(dropout=0.0), parts=parts)


def data(kind: str, count: int, batch: int, about: str = "", every: int = 2) -> FinetuneData:
    """Scenes as they are, mirrored or not; each kept in memory once it is drawn.

    Args:
        about: kinds that a model learns late, as each step shows few of them, see `Cases`.
        every: so many records, one is about these alone.
    """
    train = [SourceConfig(f"{kind}:train:{count}", weight=every - 1, cache=True)]
    if about:
        train.append(SourceConfig(f"{train[0].path}?about={about}", weight=1, cache=True))
    return FinetuneData(train=tuple(train), batch=batch, crop=False, rand_augment=False)
