"""Fine-tuning for grounding with boxes: the box loss alone, on images with phrases.

The data are `data.regions`; a random crop keeps the box (published `grounding_dataset_bbox`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xvlm.data.text.flip import FlipRule
from xvlm.evaluation.grounding import MEASURE
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class GroundingRun(PretrainRun):
    """A run of the pre-training losses with the defaults of grounding; its data are `data.regions`.

    Attributes:
        published_mirror: which images are flipped in faithful mode: those whose phrases do not contain the
            letters "left" or "right", or, in the domain stage, all.
    """

    task: str = "grounding"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("box",)))
    data: DataConfig = field(
        default_factory=lambda: DataConfig(regions_batch_size=160, region_captions=False)
    )
    losses: LossConfig = field(default_factory=lambda: LossConfig(itc=0.0, itm=0.0, mlm=0.0))
    published_mirror: FlipRule = "letters"


def build(run: GroundingRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    return pretrain.build(run, out, published_flip_rule=run.published_mirror)


def predict(predictor: Any, image: str, phrase: str) -> Any:
    """Find the box of a phrase in an image.

    Args:
        image: path or URL of an image.
        phrase: description of an object or region.
    """
    return predictor.image(image).ground(phrase)


TASK = Task(GroundingRun, build, MEASURE, pretrain.TASK.validation, predict=predict)
