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
from xvlm.data.fields import images_of, some_of, statements_of
from xvlm.data.images import open_image
from xvlm.data.mirror import mirror_texts
from xvlm.data.text import Tokenizer, clean_caption, encode_caption
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.model.pairs import judge
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.ranges import NonNegativeInt
from xvlm.records import BadRecord, Note, Record
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare


@dataclass(frozen=True)
class Judged:
    """Statements about two images: pixels (2, 3, height, width) uint8, left first; and whether each holds."""

    pixels: Tensor
    statements: Sequence[Sequence[int]]
    truths: Sequence[int]
    bad: tuple[BadRecord, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class PairBatch(Movable):
    """N statements about Q pairs of images.

    Attributes:
        images: 2 Q, the left ones first.
        pair_N: (N,) int64 the pair that each statement is about.
        truth_N: (N,) int64, 1 where the statement is true.
    """

    images: Images
    statements: Texts
    pair_N: Tensor
    truth_N: Tensor


@dataclass(frozen=True)
class PairView:
    """Record -> statements: each image is seen in a view of its own, statements are cleaned as captions.

    Attributes:
        statements: of a record that are made, see `NLVR2Run`.
    """

    transform: PairsTransform
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    statements: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Judged:
        """Raises BadRecord if something of the statement, its truth or its two images is missing."""
        bad: list[BadRecord] = []
        said = some_of(statements_of(record, bad), self.statements, rng)
        opened = [open_image(one, key=record.key) for one in images_of(record)]
        # "left" may be a side of an image or of the pair: such a statement allows no mirror image.
        notes: list[Note] = []
        texts, ids, truths = [], [], []
        for text, truth in said:
            try:
                encoded = encode_caption(
                    self.tokenizer, text, self.max_words, self.max_tokens, record.key, notes
                )
            except BadRecord as error:
                bad.append(BadRecord(error.reason, record.key, error.detail))
                continue
            texts.append(clean_caption(text, self.max_words))
            ids.append(encoded)
            truths.append(truth)
        if not ids:
            raise bad[-1]
        sides = mirror_texts(texts, self.transform.mirror) != tuple(texts)
        transform = replace(self.transform, flip=False) if sides else self.transform
        pixels = [transform(one, [], rng)[0] for one in opened]
        return Judged(torch.stack(pixels), ids, truths, tuple(bad), tuple(notes))


def collate(parts: Mapping[str, Sequence[Judged]]) -> PairBatch:
    """Statements of the part "train" -> one batch."""
    judged = parts["train"]
    pixels = torch.stack([one.pixels for one in judged], dim=1).flatten(0, 1)
    return PairBatch(
        Images(pixels),
        Texts.pack([ids for one in judged for ids in one.statements]),
        torch.tensor([number for number, one in enumerate(judged) for _ in one.statements]),
        torch.tensor([truth for one in judged for truth in one.truths]),
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
        logits_N2 = judge(self.model, batch.images, batch.statements, batch.pair_N)
        total = F.cross_entropy(logits_N2, batch.truth_N, reduction="sum")
        return {"truth": dist.global_mean(total, len(batch.truth_N))}


@dataclass(frozen=True)
class NLVR2Run(FinetuneRun):
    """Fine-tuning for statements about pairs of images.

    Attributes:
        statements: about a pair that are made each time it is seen, drawn anew; 0: all.
    """

    task: str = "nlvr2"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("pairs",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch=80))
    statements: NonNegativeInt = 0


RUN = NLVR2Run


def build(run: NLVR2Run, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    got, data = prepare(run, out), run.data
    view = PairView(got.transform, got.tokenizer, data.max_words, data.max_tokens, run.statements)
    return finish(run, got, view, collate, NLVR2(got.loaded.model))


def evaluation(run: NLVR2Run) -> Evaluation | None:
    """What the run asks to be measured while it trains; see `measured`."""
    return measured(run.dev, evaluate_pairs)
