"""Visual reasoning: is a statement about an image pair true? (NLVR2; published `XVLMForNLVR`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.common.ranges import NonNegativeInt
from xvlm.data.images.decode import open_image
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.task_fields import image_pair_of, sample_subset, statements_of
from xvlm.data.text.cleaning import clean_caption
from xvlm.data.text.flip import flip_texts
from xvlm.data.text.tokenizer import Tokenizer, encode_caption
from xvlm.evaluation.nlvr2 import MEASURE
from xvlm.models.classification import pair_logits
from xvlm.models.xvlm import ModelConfig
from xvlm.records import BadRecord, Note, Record
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


@dataclass(frozen=True, kw_only=True)
class NLVR2Sample(ImageSample):
    """An image pair with tokenized statements; `pixels` are (2, 3, height, width), left image first.

    Attributes:
        statements: token ids of each statement.
        truths: 1 for each true statement, 0 for each false one.
    """

    statements: Sequence[Sequence[int]]
    truths: Sequence[int]


@dataclass(frozen=True)
class NLVR2Batch(TensorTree):
    """A batch of N statements about Q image pairs.

    Attributes:
        images: 2 Q images, the left ones first.
        statements: N statements.
        pair_N: (N,) int64 index of each statement's pair.
        truth_N: (N,) int64, 1 for a true statement.
    """

    images: Images
    statements: Texts
    pair_N: Tensor
    truth_N: Tensor


@dataclass(frozen=True)
class NLVR2SampleBuilder:
    """Builds a sample of a record: a random crop of each image with cleaned and tokenized statements.

    Attributes:
        transform: transform of an image.
        tokenizer: tokenizer of the model.
        max_words: words of a statement that are used.
        max_tokens: tokens of a statement that are used.
        statements_per_pair: statements sampled from a record; 0 uses all.
    """

    transform: PairTransform
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    statements_per_pair: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> NLVR2Sample:
        """Raises BadRecord if a statement, its truth or one of the two images is missing."""
        bad: list[BadRecord] = []
        sampled = sample_subset(statements_of(record, bad), self.statements_per_pair, rng)
        opened = [open_image(one, key=record.key) for one in image_pair_of(record)]
        notes: list[Note] = []
        encoded = encode_usable(
            sampled,
            lambda one: encode_caption(
                self.tokenizer, one[0], self.max_words, self.max_tokens, record.key, notes
            ),
            record.key,
            bad,
        )
        # "left" may be a side of an image or of the pair: with such a statement no image is flipped.
        texts = tuple(clean_caption(text, self.max_words) for (text, _), _ in encoded)
        transform = self.transform
        if flip_texts(texts, transform.flip_rule) != texts:
            transform = replace(transform, random_flip=False)
        pixels = [transform(image, [], rng)[0] for image in opened]
        return NLVR2Sample(
            pixels=torch.stack(pixels),
            statements=[ids for _, ids in encoded],
            truths=[truth for (_, truth), _ in encoded],
            bad=bad,
            notes=notes,
        )


def collate(streams: Mapping[str, Sequence[NLVR2Sample]]) -> NLVR2Batch:
    """Collate the samples of the data stream "train"."""
    samples = streams["train"]
    return NLVR2Batch(
        Images(torch.stack([sample.pixels for sample in samples], dim=1).flatten(0, 1)),
        Texts.pack([ids for sample in samples for ids in sample.statements]),
        torch.tensor([pair for pair, sample in enumerate(samples) for _ in sample.statements]),
        torch.tensor([truth for sample in samples for truth in sample.truths]),
    )


class NLVR2(LossModule):
    """Two-way classification of statements."""

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"truth": 1.0}

    def forward(self, batch: NLVR2Batch) -> dict[str, Tensor]:
        """Compute `truth` (): two-way cross-entropy, averaged over the global batch."""
        features = self.model.encode_images(batch.images)
        logits_N2 = pair_logits(self.model, features, batch.statements, batch.pair_N)
        total = F.cross_entropy(logits_N2, batch.truth_N, reduction="sum")
        return {"truth": distributed.global_mean(total, len(batch.truth_N))}


@dataclass(frozen=True)
class NLVR2Run(FinetuneRun):
    """Fine-tuning for statements about image pairs.

    Attributes:
        statements_per_pair: statements sampled for a pair each time it is used; 0 uses all.
    """

    task: str = "nlvr2"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("pair_classifier",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch_size=80))
    statements_per_pair: NonNegativeInt = 0


def build(run: NLVR2Run, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data = prepare_finetuning(run, out), run.data
    build_sample = NLVR2SampleBuilder(
        parts.transform, parts.tokenizer, data.max_words, data.max_tokens, run.statements_per_pair
    )
    return finish_setup(run, parts, build_sample, collate, NLVR2(parts.bundle.model))


def predict(predictor: Any, left: str, right: str, statement: str) -> float:
    """Compute the probability that a statement about two images is true.

    Args:
        left: path or URL of the left image.
        right: path or URL of the right image.
        statement: statement about both images.
    """
    truth: float = predictor.compare(left, right, statement)
    return truth


TASK = Task(NLVR2Run, build, MEASURE, predict=predict)
