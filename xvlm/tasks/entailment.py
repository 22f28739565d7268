"""Visual entailment: does a hypothesis follow from an image, contradict it, or neither? (SNLI-VE).

The cross-modal encoder reads the hypothesis with the image; a head classifies its x_cls (Xie et al. 2019; the
three-way classification of ALBEF, section 5, without its momentum distillation, which X-VLM does not use).
A run with other `model.labels` classifies texts about images by these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm import dist
from xvlm.batch import Images, Movable, Texts
from xvlm.data.fields import labelled_of
from xvlm.data.images import open_image
from xvlm.data.text import Tokenizer, encode_caption
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.entailment import evaluate_entailment
from xvlm.model.labels import label_logits
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.records import BadRecord, Note, Record
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare

LABELS = ("contradiction", "neutral", "entailment")
"""In ALBEF's order."""


@dataclass(frozen=True)
class Hypotheses:
    """Hypotheses about one image, (3, height, width) uint8, and the label of each."""

    pixels: Tensor
    hypotheses: Sequence[Sequence[int]]
    labels: Sequence[int]
    bad: tuple[BadRecord, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class EntailmentBatch(Movable):
    """N hypotheses about B images.

    Attributes:
        image_N: (N,) int64 the image that each hypothesis is about.
        label_N: (N,) int64 its place among the model's labels.
    """

    images: Images
    hypotheses: Texts
    image_N: Tensor
    label_N: Tensor


@dataclass(frozen=True)
class HypothesisView:
    """Record -> hypotheses: the view of the image is random, hypotheses are cleaned as captions."""

    transform: PairsTransform
    tokenizer: Tokenizer
    labels: tuple[str, ...] = LABELS
    max_words: int = 40
    max_tokens: int = 40

    def __call__(self, record: Record, rng: np.random.Generator) -> Hypotheses:
        """Raises BadRecord if no hypothesis has a label, or the image cannot be used."""
        several, bad = labelled_of(record, self.labels)
        opened = open_image(record.image, key=record.key)
        pixels, seen = self.transform(opened, [one.text for one in several], rng)
        notes: list[Note] = []
        ids, labels = [], []
        for text, one in zip(seen, several, strict=True):
            try:
                ids.append(
                    encode_caption(self.tokenizer, text, self.max_words, self.max_tokens, record.key, notes)
                )
                labels.append(one.label)
            except BadRecord as error:
                bad.append(BadRecord(error.reason, record.key, error.detail))
        if not ids:
            raise bad[-1]
        return Hypotheses(pixels, ids, labels, tuple(bad), tuple(notes))


def collate(parts: Mapping[str, Sequence[Hypotheses]]) -> EntailmentBatch:
    """Hypotheses of the part "train" -> one batch."""
    shown = parts["train"]
    return EntailmentBatch(
        Images(torch.stack([one.pixels for one in shown])),
        Texts.pack([ids for one in shown for ids in one.hypotheses]),
        torch.tensor([number for number, one in enumerate(shown) for _ in one.hypotheses]),
        torch.tensor([label for one in shown for label in one.labels]),
    )


class Entailment(nn.Module):
    """The model with its loss."""

    def __init__(self, model: XVLM) -> None:
        super().__init__()
        self.model = model

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name."""
        return {"label": 1.0}

    def forward(self, batch: EntailmentBatch) -> dict[str, Tensor]:
        """`label` (): cross-entropy over the global batch's hypotheses."""
        features = self.model.encode_images(batch.images)
        logits_NC = label_logits(self.model, features, batch.hypotheses, batch.image_N)
        total = F.cross_entropy(logits_NC, batch.label_N, reduction="sum")
        return {"label": dist.global_mean(total, len(batch.label_N))}


@dataclass(frozen=True)
class EntailmentRun(FinetuneRun):
    """Fine-tuning for visual entailment."""

    task: str = "entailment"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("labels",), labels=LABELS))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch=256))


RUN = EntailmentRun


def build(run: EntailmentRun, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    got, data = prepare(run, out), run.data
    labels = got.loaded.model.labels.names
    view = HypothesisView(got.transform, got.tokenizer, labels, data.max_words, data.max_tokens)
    return finish(run, got, view, collate, Entailment(got.loaded.model))


def evaluation(run: EntailmentRun) -> Evaluation | None:
    """What the run asks to be measured while it trains; see `measured`."""
    return measured(run.dev, evaluate_entailment)
