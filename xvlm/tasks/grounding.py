"""Fine-tuning for grounding with boxes: the box loss alone, on images with phrases.

Its data are `data.regions`; a view is a crop that keeps the box (published `grounding_dataset_bbox`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xvlm.data.mirror import MirrorRule
from xvlm.model.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks._build import Built
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class GroundingRun(PretrainRun):
    """A pre-training run's fields, with what grounding needs as defaults; its data are `data.regions`.

    Attributes:
        published_mirror: which images are mirrored in faithful mode: those of phrases without the letters
            left or right, or, in the domain stage, all alike.
    """

    task: str = "grounding"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("box",)))
    data: DataConfig = field(default_factory=lambda: DataConfig(regions_batch=160, region_captions=False))
    losses: LossConfig = field(default_factory=lambda: LossConfig(itc=0.0, itm=0.0, mlm=0.0))
    published_mirror: MirrorRule = "letters"


RUN = GroundingRun


def build(run: GroundingRun, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    return pretrain.build(run, out, published_mirror=run.published_mirror)


evaluation = pretrain.evaluation
