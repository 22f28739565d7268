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


def data(kind: str, count: int, batch: int, about: str = "") -> FinetuneData:
    """Scenes as they are, mirrored or not; each kept in memory once it is drawn.

    `about`: half of the records are about these kinds alone, see `Cases`: kinds that a model learns late, as
    each step shows few of them.
    """
    paths = [f"{kind}:train:{count}", *([f"{kind}:train:{count}?about={about}"] if about else [])]
    train = tuple(SourceConfig(path, cache=True) for path in paths)
    return FinetuneData(train=train, batch=batch, crop=False, rand_augment=False)
