"""A run that is ready to start: what a task's `build` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xvlm.data.loading.loader import StepDataset
from xvlm.data.sources.source import Source
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.tasks.common.loss_module import LossModule


@dataclass(frozen=True)
class FeatureCacheConfig:
    """Random crops whose features after the frozen stem are computed before training.

    Attributes:
        folder: folder of the cache, see `training/feature_cache.py`.
        sources: images to compute features of.
        views: random crops of each image.
        scale: range of a crop's area as a fraction of the image's.
    """

    folder: Path
    sources: Sequence[Source]
    views: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class TrainingSetup:
    """Model, losses and data of a run.

    Attributes:
        loss_module: computes the losses of a batch; it holds the model that is trained.
        steps: dataset of training steps.
        bundle: the model with its tokenizer, as it is saved.
        pretrained_names: names of the model's parameters that a checkpoint provided.
        feature_cache: features to compute first; `None` for none.
    """

    loss_module: LossModule
    steps: StepDataset
    bundle: ModelBundle
    pretrained_names: set[str]
    feature_cache: FeatureCacheConfig | None = None
