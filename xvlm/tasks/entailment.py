"""Visual entailment: does a hypothesis follow from an image, contradict it, or neither? (SNLI-VE).

A classifier takes the x_cls of the hypothesis with the image (Xie et al. 2019; the three-way classification
of ALBEF, section 5, without its momentum distillation, which X-VLM does not use).  A run with other
`model.labels` classifies texts about images by those labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.data.images.decode import open_image
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.task_fields import labelled_texts_of
from xvlm.data.text.tokenizer import Tokenizer, encode_caption
from xvlm.evaluation.entailment import MEASURE
from xvlm.models.classification import class_logits
from xvlm.models.xvlm import ModelConfig
from xvlm.records import Note, Record
from xvlm.tasks.common.finetuning import (
    FinetuneData,
    FinetuneRun,
    ImageSample,
    encode_usable,
    finish_setup,
    prepare_finetuning,
)
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task

LABELS = ("contradiction", "neutral", "entailment")
"""Labels in ALBEF's order."""


@dataclass(frozen=True, kw_only=True)
class EntailmentSample(ImageSample):
    """An image with tokenized hypotheses.

    Attributes:
        hypotheses: token ids of each hypothesis.
        labels: index of each hypothesis's label.
    """

    hypotheses: Sequence[Sequence[int]]
    labels: Sequence[int]


@dataclass(frozen=True)
class EntailmentBatch(TensorTree):
    """A batch of N hypotheses about B images.

    Attributes:
        images: B images.
        hypotheses: N hypotheses.
        image_N: (N,) int64 index of each hypothesis's image.
        label_N: (N,) int64 index of each hypothesis's label.
    """

    images: Images
    hypotheses: Texts
    image_N: Tensor
    label_N: Tensor


@dataclass(frozen=True)
class EntailmentSampleBuilder:
    """Builds a sample of a record: a random crop with its cleaned and tokenized hypotheses.

    Attributes:
        transform: transform of the image and its texts.
        tokenizer: tokenizer of the model.
        labels: names of the labels.
        max_words: words of a hypothesis that are used.
        max_tokens: tokens of a hypothesis that are used.
    """

    transform: PairTransform
    tokenizer: Tokenizer
    labels: tuple[str, ...] = LABELS
    max_words: int = 40
    max_tokens: int = 40

    def __call__(self, record: Record, rng: np.random.Generator) -> EntailmentSample:
        """Raises BadRecord if no hypothesis has a label, or the image cannot be used."""
        several, bad = labelled_texts_of(record, self.labels)
        opened = open_image(record.image, key=record.key)
        pixels, texts = self.transform(opened, [one.text for one in several], rng)
        notes: list[Note] = []
        encoded = encode_usable(
            zip(texts, several, strict=True),
            lambda one: encode_caption(
                self.tokenizer, one[0], self.max_words, self.max_tokens, record.key, notes
            ),
            record.key,
            bad,
        )
        return EntailmentSample(
            pixels=pixels,
            hypotheses=[ids for _, ids in encoded],
            labels=[hypothesis.label for (_, hypothesis), _ in encoded],
            bad=bad,
            notes=notes,
        )


def collate(streams: Mapping[str, Sequence[EntailmentSample]]) -> EntailmentBatch:
    """Collate the samples of the data stream "train"."""
    samples = streams["train"]
    return EntailmentBatch(
        Images(torch.stack([sample.pixels for sample in samples])),
        Texts.pack([ids for sample in samples for ids in sample.hypotheses]),
        torch.tensor([image for image, sample in enumerate(samples) for _ in sample.hypotheses]),
        torch.tensor([label for sample in samples for label in sample.labels]),
    )


class Entailment(LossModule):
    """Classification of hypotheses."""

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"label": 1.0}

    def forward(self, batch: EntailmentBatch) -> dict[str, Tensor]:
        """Compute `label` (): cross-entropy, averaged over the hypotheses of the global batch."""
        features = self.model.encode_images(batch.images)
        logits_NY = class_logits(self.model, features, batch.hypotheses, batch.image_N)
        total = F.cross_entropy(logits_NY, batch.label_N, reduction="sum")
        return {"label": distributed.global_mean(total, len(batch.label_N))}


@dataclass(frozen=True)
class EntailmentRun(FinetuneRun):
    """Fine-tuning for visual entailment."""

    task: str = "entailment"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("classifier",), labels=LABELS))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch_size=256))


def build(run: EntailmentRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data = prepare_finetuning(run, out), run.data
    labels = parts.bundle.model.classifier.names
    build_sample = EntailmentSampleBuilder(
        parts.transform, parts.tokenizer, labels, data.max_words, data.max_tokens
    )
    return finish_setup(run, parts, build_sample, collate, Entailment(parts.bundle.model))


def predict(predictor: Any, image: str, hypothesis: str) -> Any:
    """Classify whether a hypothesis follows from an image.

    Args:
        image: path or URL of an image.
        hypothesis: statement about the image.
    """
    return predictor.image(image).entails(hypothesis)


TASK = Task(EntailmentRun, build, MEASURE, predict=predict)
