"""Fine-tuning for grounding without boxes: phrases are learnt as texts of whole images (X-VLM, section 4.3).

Where a phrase is shows afterwards in what the matching head looks at (`model/attention_map.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xvlm.tasks import pretrain, retrieval
from xvlm.tasks.pretrain import DataConfig
from xvlm.tasks.retrieval import RetrievalRun


@dataclass(frozen=True)
class WeakGroundingRun(RetrievalRun):
    """Retrieval on phrases; boxes of the data are not looked at."""

    task: str = "weak_grounding"
    data: DataConfig = field(
        default_factory=lambda: DataConfig(pairs_batch=160, crop=False, boxes_as_captions=True)
    )


RUN = WeakGroundingRun
build = retrieval.build
evaluation = pretrain.evaluation
