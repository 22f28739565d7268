"""Fine-tuning for retrieval: contrastive and matching losses on whole images with captions.

Rows of one image, under any captions, are positives of each other and never hard negatives; so are rows of
the same text, but not in faithful mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from xvlm.evaluation.retrieval import MEASURE
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.common.task import Task
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class RetrievalRun(PretrainRun):
    """A run of the pre-training losses with the defaults of retrieval; its data are `data.pairs`."""

    task: str = "retrieval"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("contrastive", "matching")))
    data: DataConfig = field(default_factory=lambda: DataConfig(pairs_batch_size=160, crop_scale=(0.5, 1.0)))
    losses: LossConfig = field(default_factory=lambda: LossConfig(mlm=0.0, bbox=0.0, giou=0.0))


TASK = Task(RetrievalRun, partial(pretrain.build, published="image"), MEASURE, pretrain.TASK.validation)
