"""Captioning: a text stack made causal writes what an image shows (published `XVLMForCaptioning`).

A caption begins with a prompt that is given, not learnt, and ends in `[SEP]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xvlm import dist
from xvlm.batch import Images, Movable, Texts
from xvlm.data.checks import usable_concepts
from xvlm.data.images import open_image
from xvlm.data.text import Tokenizer, clean_caption, cut_words
from xvlm.data.transforms import PairsTransform
from xvlm.data.views import captions_only
from xvlm.errors import InputError
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.losses.language import next_token_loss
from xvlm.model.decoder import after_prompt, followed
from xvlm.model.xvlm import XVLM, ModelConfig
from xvlm.ranges import Decay, PositiveInt
from xvlm.records import BadRecord, Note, Record
from xvlm.tasks._build import Built
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import FinetuneData, FinetuneRun, finish, prepare

PROMPT = "a picture of "


@dataclass(frozen=True)
class Captioned:
    """An image (3, height, width) uint8 with some captions, prompt and end included."""

    pixels: Tensor
    captions: Sequence[Sequence[int]]
    bad: tuple[BadRecord, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class CaptionBatch(Movable):
    """B images with at least one caption each, N in all.

    Attributes:
        image_N: (N,) int64 the image of each caption.
        prompt: tokens at a caption's beginning that are given.
    """

    images: Images
    captions: Texts
    image_N: Tensor
    prompt: int


@dataclass(frozen=True)
class CaptionView:
    """A random crop with `captions` of its captions, or all that there are if they are fewer."""

    transform: PairsTransform
    tokenizer: Tokenizer
    prompt: str = PROMPT
    captions: int = 1
    max_words: int = 40
    max_tokens: int = 40

    def __call__(self, record: Record, rng: np.random.Generator) -> Captioned:
        """Raises BadRecord if the record has no caption or its image cannot be used."""
        record = captions_only(record)
        opened = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, opened, notes)
        texts = [text for concept in concepts for text in concept.texts]
        chosen = rng.permutation(len(texts))[: self.captions]
        pixels, shown = self.transform(opened, [texts[place] for place in chosen], rng)
        ids, unusable = [], []
        for text in shown:
            try:
                cleaned = cut_words(clean_caption(text), self.max_words, record.key, notes)
                ids.append(self.caption_ids(cleaned, record.key, notes))
            except BadRecord as error:
                unusable.append(BadRecord(error.reason, record.key, error.detail))
        if not ids:
            raise unusable[0]
        return Captioned(pixels, ids, (*bad, *unusable), tuple(notes))

    def caption_ids(self, caption: str, key: str, notes: list[Note]) -> list[int]:
        """`[CLS]`, prompt, caption, `[SEP]`; what is more than `max_tokens` of the caption is cut."""
        prompt = len(prompt_ids(self.tokenizer, self.prompt, self.max_tokens)) - 1
        whole = f"{self.prompt}{caption}"
        return self.tokenizer.encode_known(whole, self.max_tokens, True, key, notes, prompt)


def prompt_ids(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> list[int]:
    """`[CLS]` and the prompt.  Raises InputError if it leaves no room for a caption."""
    ids = tokenizer.encode(prompt, max_tokens, allow_empty=True)
    if len(ids) >= max_tokens:
        raise InputError(f"max_tokens is {max_tokens}; the prompt, {prompt!r}, leaves none for a caption")
    return ids


@dataclass(frozen=True)
class Collate:
    """Samples of the part "train" -> one batch; `prompt`: tokens that are given."""

    prompt: int

    def __call__(self, parts: Mapping[str, Sequence[Captioned]]) -> CaptionBatch:
        """One batch."""
        shown = parts["train"]
        return CaptionBatch(
            Images(torch.stack([one.pixels for one in shown])),
            Texts.pack([ids for one in shown for ids in one.captions]),
            torch.tensor([number for number, one in enumerate(shown) for _ in one.captions]),
            self.prompt,
        )


class Captioning(nn.Module):
    """The model with its loss."""

    def __init__(self, model: XVLM, smoothing: float, faithful: bool) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing
        self.faithful = faithful

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name."""
        return {"caption": 1.0}

    def forward(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """`caption` (): cross-entropy of the tokens after the prompt, over the global batch."""
        model, captions = self.model, batch.captions
        features = model.encode_images(batch.images)
        concepts, _ = model.encode_whole(features)
        caption_N = torch.arange(len(captions), device=captions.ids_T.device)
        logits_MV = model.captions(captions, caption_N, concepts, batch.image_N)
        at_M, text_M = followed(captions.lengths_N)
        loss_M = next_token_loss(logits_MV, captions.ids_T[at_M + 1], self.smoothing, self.faithful)
        learnt_M = after_prompt(captions.lengths_N, at_M, text_M, batch.prompt)
        count = int(learnt_M.sum())
        return {"caption": dist.global_mean((loss_M * learnt_M).sum(), count)}


@dataclass(frozen=True)
class CaptioningRun(FinetuneRun):
    """Fine-tuning for captions.

    Attributes:
        prompt: what every caption begins with.
        captions: of an image that are learnt in a step, which encodes it once.
        smoothing: share of each token's label that is spread over the vocabulary.
    """

    task: str = "captioning"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(parts=("captions",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch=256))
    prompt: str = PROMPT
    captions: PositiveInt = 1
    smoothing: Decay = 0.1


RUN = CaptioningRun


def build(run: CaptioningRun, out: Path) -> Built:
    """The task, its data and its model.  Raises InputError if it has no data."""
    got, data = prepare(run, out), run.data
    view = CaptionView(
        got.transform, got.tokenizer, run.prompt, run.captions, data.max_words, data.max_tokens
    )
    collate = Collate(len(prompt_ids(got.tokenizer, run.prompt, data.max_tokens)))
    got = replace(got, loaded=replace(got.loaded, prompt=run.prompt))
    return finish(run, got, view, collate, Captioning(got.loaded.model, run.smoothing, run.faithful))


def evaluation(run: CaptioningRun) -> Evaluation | None:
    """What the run asks to be measured while it trains, see `measured`; without Java."""
    return measured(run.dev, partial(evaluate_captions, java=False))
