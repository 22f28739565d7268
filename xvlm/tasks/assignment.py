"""Text assignment: which of two images does a caption describe, or neither of them?

The published second pre-training for NLVR2: it teaches a cross-modal encoder that looks at two images which
side is which, with nothing but images and captions (as in ALBEF, Li et al. 2021, section 5; published
`model_nlvr_pretrain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm import dist
from xvlm.data.views import PairsView, Sample, TextView
from xvlm.losses.contrastive import same_thing
from xvlm.losses.matching import Assigned, draw_assigned
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.tasks import _batch
from xvlm.tasks._batch import PretrainBatch, first_texts
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare

TEMPERATURE = 0.07
"""Of the similarities between images that the other images are drawn by (published)."""


class Assignment(nn.Module):
    """The model with its loss."""

    def __init__(self, model: XVLM, faithful: bool = False) -> None:
        super().__init__()
        self.model = model
        self.faithful = faithful

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name."""
        return {"assignment": 1.0}

    def forward(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """`assignment` (): three-way cross-entropy over the global batch.

        Captions that have no two other images in this rank's batch are left out.
        """
        model, rows = self.model, len(batch.concepts)
        features = model.encode_images(batch.images)
        concepts, cls_BD = model.encode_whole(features)
        texts = model.encode_texts(first_texts(batch.texts, rows))
        drawn = self.draw(batch, model.assignment.embed_images(cls_BD))
        pairs = concepts.copied(torch.cat((drawn.left_Q, drawn.right_Q)))
        pair_Q = torch.arange(len(drawn.row_Q), device=drawn.row_Q.device)
        logits_Q3 = model.assignment(model.fuse_cls(texts, drawn.row_Q, pairs, pair_Q))
        total = F.cross_entropy(logits_Q3, drawn.label_Q, reduction="sum")
        return {"assignment": dist.global_mean(total, len(drawn.label_Q))}

    def draw(self, batch: PretrainBatch, image_BE: Tensor) -> Assigned:
        """Two images for each caption, of images (B, E) of unit length."""
        keys = batch.concept_key_N, batch.text_key_N
        same_BB = same_thing(*keys, *keys)
        if self.faithful:
            same_BB = torch.eye(len(image_BE), dtype=torch.bool, device=image_BE.device)
        return draw_assigned(image_BE, same_BB, TEMPERATURE)


@dataclass(frozen=True)
class AssignmentRun(FinetuneRun):
    """Text assignment on images with captions."""

    task: str = "assignment"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("assignment",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(scale=(0.2, 1.0)))


RUN = AssignmentRun


def collate(parts: Mapping[str, Sequence[Sample]]) -> PretrainBatch:
    """Samples of the part "train" -> one batch."""
    return _batch.collate({"pairs": parts["train"]})


def build(run: AssignmentRun, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    got, data = prepare(run, out), run.data
    text = TextView(got.tokenizer, data.max_words, data.max_tokens, mask_probability=0.0)
    task = Assignment(got.loaded.model, run.faithful)
    return finish(run, got, PairsView(got.transform, text), collate, task)


def evaluation(run: AssignmentRun) -> Evaluation | None:
    """Nothing: it is the next stage that is measured."""
    return None
