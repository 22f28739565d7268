"""Fine-tuning for grounding without boxes: phrases are texts of whole images (X-VLM, section 4.3).

The box of a phrase is then found by the attention of the matching head (`models/text/grad_cam.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xvlm.evaluation.weak_grounding import MEASURE
from xvlm.tasks import pretrain, retrieval
from xvlm.tasks.common.task import Task
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.retrieval import RetrievalRun


@dataclass(frozen=True)
class WeakGroundingRun(RetrievalRun):
    """A retrieval run on phrases; boxes of the data are ignored."""

    task: str = "weak_grounding"
    data: DataConfig = field(
        default_factory=lambda: DataConfig(pairs_batch_size=160, random_crop=False, boxes_as_captions=True)
    )


TASK = Task(WeakGroundingRun, retrieval.TASK.build, MEASURE, pretrain.TASK.validation)
