"""Fine-tuning for detection: presence, places and boxes of texts with several targets, one or none.

The data are `data.regions`, with absent texts, if their records have any.  A published checkpoint gains the
detection head by this task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xvlm.common.ranges import Probability
from xvlm.evaluation.detection import MEASURE
from xvlm.models.calibration import THRESHOLD
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks import pretrain
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


@dataclass(frozen=True)
class DetectionRun(PretrainRun):
    """A run of the pre-training losses with the defaults of detection; its data are `data.regions`."""

    task: str = "detection"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("box", "detection")))
    data: DataConfig = field(
        default_factory=lambda: DataConfig(regions_batch_size=64, region_captions=False, absent_texts=4)
    )
    losses: LossConfig = field(default_factory=lambda: LossConfig(itc=0.0, itm=0.0, mlm=0.0, detection=1.0))


def build(run: DetectionRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    return pretrain.build(run, out)


def predict(predictor: Any, image: str, phrase: str, threshold: Probability = THRESHOLD) -> Any:
    """Find everything in an image that a phrase describes.

    Args:
        image: path or URL of an image.
        phrase: description of one thing or of several.
        threshold: smallest probability of what is returned.
    """
    return predictor.image(image).find(phrase, threshold)


TASK = Task(DetectionRun, build, MEASURE, pretrain.TASK.validation, predict=predict)
