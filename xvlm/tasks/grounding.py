"""Fine-tuning for grounding with boxes: the box loss alone, on images with phrases.

Its data are `data.regions`; a view is a crop that keeps the box (published `grounding_dataset_bbox`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xvlm.model.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class GroundingRun(PretrainRun):
    """A pre-training run's fields, with what grounding needs as defaults; its data are `data.regions`."""

    task: str = "grounding"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("box",)))
    data: DataConfig = field(default_factory=lambda: DataConfig(regions_batch=160, region_captions=False))
    losses: LossConfig = field(default_factory=lambda: LossConfig(itc=0.0, itm=0.0, mlm=0.0))


RUN = GroundingRun
build = pretrain.build
evaluation = pretrain.evaluation
