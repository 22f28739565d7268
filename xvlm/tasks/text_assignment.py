"""Text assignment: which of two images does a caption describe, the left one, the right one, or neither?

The published second pre-training for NLVR2 teaches a cross-modal encoder over image pairs which side is
which, from images with captions alone (ALBEF, Li et al. 2021, section 5; published `model_nlvr_pretrain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.data.samples.builders import PairSampleBuilder, Sample
from xvlm.data.samples.text_rows import TextRowBuilder
from xvlm.losses.contrastive import same_concept_or_text
from xvlm.losses.negatives import ImageAssignment, sample_image_assignment
from xvlm.models.xvlm import XVLM, ModelConfig
from xvlm.tasks.common import pretraining_batch
from xvlm.tasks.common.finetuning import FinetuneData, FinetuneRun, finish_setup, prepare_finetuning
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.pretraining_batch import PretrainBatch, first_texts
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task

TEMPERATURE = 0.07
"""Temperature of the similarities by which the other images are sampled (published)."""


class TextAssignment(LossModule):
    """Three-way classification of captions with image pairs that are sampled within the batch."""

    def __init__(self, model: XVLM, faithful: bool = False) -> None:
        super().__init__(model)
        self.faithful = faithful

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"assignment": 1.0}

    def forward(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Compute `assignment` (): three-way cross-entropy, averaged over the global batch.

        Captions without two other images in this rank's batch are left out.
        """
        model, rows = self.model, len(batch.concepts)
        features = model.encode_images(batch.images)
        concepts, cls_BD = model.encode_whole(features)
        texts = model.encode_texts(first_texts(batch.texts, rows))
        assigned = self.sample_pairs(batch, model.text_assignment.embed_images(cls_BD))
        pairs = concepts.with_own_sets(torch.cat((assigned.left_Q, assigned.right_Q)))
        pair_Q = torch.arange(len(assigned.row_Q), device=assigned.row_Q.device)
        logits_Q3 = model.text_assignment(model.fuse_cls(texts, assigned.row_Q, pairs, pair_Q))
        total = F.cross_entropy(logits_Q3, assigned.label_Q, reduction="sum")
        return {"assignment": distributed.global_mean(total, len(assigned.label_Q))}

    def sample_pairs(self, batch: PretrainBatch, image_BE: Tensor) -> ImageAssignment:
        """Sample two images for each caption, by the similarity of image embeddings (B, E) of unit length."""
        keys = batch.concept_key_N, batch.text_key_N
        positive_BB = same_concept_or_text(*keys, *keys)
        if self.faithful:
            positive_BB = torch.eye(len(image_BE), dtype=torch.bool, device=image_BE.device)
        return sample_image_assignment(image_BE, positive_BB, TEMPERATURE)


@dataclass(frozen=True)
class TextAssignmentRun(FinetuneRun):
    """Text assignment on images with captions."""

    task: str = "text_assignment"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("text_assignment",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(crop_scale=(0.2, 1.0)))


def collate(streams: Mapping[str, Sequence[Sample]]) -> PretrainBatch:
    """Collate the samples of the data stream "train"."""
    return pretraining_batch.collate({"pairs": streams["train"]})


def build(run: TextAssignmentRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data = prepare_finetuning(run, out), run.data
    text = TextRowBuilder(parts.tokenizer, data.max_words, data.max_tokens, mask_probability=0.0)
    losses = TextAssignment(parts.bundle.model, run.faithful)
    return finish_setup(run, parts, PairSampleBuilder(parts.transform, text), collate, losses)


TASK = Task(TextAssignmentRun, build)
