"""Reasoning over pairs: is a statement true of two images? (NLVR2; published `XVLMForNLVR`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm import dist
from xvlm.batch import Images, Movable, Texts
from xvlm.data.fields import images_of, statement_of, truth_of
from xvlm.data.images import MAX_PIXELS, open_image
from xvlm.data.mirror import mirror_texts
from xvlm.data.text import Tokenizer, clean_caption
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.model.pairs import judge
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.records import BadRecord, Record
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare


@dataclass(frozen=True)
class Judged:
    """A statement about two images: pixels (2, 3, height, width) uint8, left first; and whether it holds."""

    pixels: Tensor
    statement: Sequence[int]
    truth: int
    bad: tuple[BadRecord, ...] = ()


@dataclass(frozen=True)
class PairBatch(Movable):
    """Q statements about a pair of images each.

    Attributes:
        images: 2 Q, the left ones first.
        truth_Q: (Q,) int64, 1 where the statement is true.
    """

    images: Images
    statements: Texts
    truth_Q: Tensor


@dataclass(frozen=True)
class PairView:
    """Record -> statement: each image is seen in a view of its own, the statement is cleaned as a caption."""

    transform: PairsTransform
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    max_pixels: int = MAX_PIXELS

    def __call__(self, record: Record, rng: np.random.Generator) -> Judged:
        """Raises BadRecord if something of the statement, its truth or its two images is missing."""
        statement, truth = statement_of(record), truth_of(record)
        opened = [open_image(one, key=record.key, max_pixels=self.max_pixels) for one in images_of(record)]
        # "left" may be a side of an image or of the pair: such a statement allows no mirror image.
        sides = mirror_texts([statement]) != (statement,)
        transform = replace(self.transform, flip=False) if sides else self.transform
        pixels = [transform(one, [], rng)[0] for one in opened]
        ids = self.tokenizer.encode(clean_caption(statement, self.max_words), self.max_tokens)
        return Judged(torch.stack(pixels), ids, truth)


def collate(parts: Mapping[str, Sequence[Judged]]) -> PairBatch:
    """Statements of the part "train" -> one batch."""
    judged = parts["train"]
    pixels = torch.stack([one.pixels for one in judged], dim=1).flatten(0, 1)
    return PairBatch(
        Images(pixels),
        Texts.pack([one.statement for one in judged]),
        torch.tensor([one.truth for one in judged]),
    )


class NLVR2(nn.Module):
    """The model with its loss."""

    def __init__(self, model: XVLM) -> None:
        super().__init__()
        self.model = model

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name."""
        return {"truth": 1.0}

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """`truth` (): two-way cross-entropy over the global batch."""
        logits_Q2 = judge(self.model, batch.images, batch.statements)
        total = F.cross_entropy(logits_Q2, batch.truth_Q, reduction="sum")
        return {"truth": dist.global_mean(total, len(batch.truth_Q))}


@dataclass(frozen=True)
class NLVR2Run(FinetuneRun):
    """Fine-tuning for statements about pairs of images."""

    task: str = "nlvr2"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("pairs",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch=80))


RUN = NLVR2Run


def build(run: NLVR2Run, out: Path) -> Built:
    """The task, its data and its model.  Raises ValueError if it has no data."""
    got, data = prepare(run, out), run.data
    view = PairView(got.transform, got.tokenizer, data.max_words, data.max_tokens)
    return finish(run, got, view, collate, NLVR2(got.loaded.model))


def evaluation(run: NLVR2Run) -> Evaluation | None:
    """What the run asks to be measured while it trains; see `measured`."""
    return measured(run.dev, evaluate_pairs)
