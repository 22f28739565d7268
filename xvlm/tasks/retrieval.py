"""Fine-tuning for retrieval: contrastive and matching losses on whole images with captions.

Rows that show one image, under whatever captions, are positives of each other and never hard negatives; so
are rows of one text, but not in faithful mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from xvlm.model.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class RetrievalRun(PretrainRun):
    """A pre-training run's fields, with what retrieval needs as defaults; its data are `data.pairs`."""

    task: str = "retrieval"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("contrastive", "matching")))
    data: DataConfig = field(default_factory=lambda: DataConfig(pairs_batch=160, scale=(0.5, 1.0)))
    losses: LossConfig = field(default_factory=lambda: LossConfig(mlm=0.0, bbox=0.0, giou=0.0))


RUN = RetrievalRun
build = partial(pretrain.build, published="image")
evaluation = pretrain.evaluation
