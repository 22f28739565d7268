"""Captioning by its measure: what was written is learnt as far as its CIDEr beats that of the greedy caption.

Self-critical sequence training (Rennie et al. 2017; published `Captioning_scst`).  Captions are drawn without
a gradient, with keys and values kept; log-probabilities of what was drawn are then computed in one pass.
Faithful mode draws in training mode and learns from these passes themselves, as the published code does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xvlm import dist
from xvlm.batch import Images, Movable, Texts
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.data.text import Tokenizer, clean_caption
from xvlm.data.transforms import PairsTransform
from xvlm.data.views import captions_only, image_key
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.metrics.cider import Cider
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoder import after_prompt, followed
from xvlm.model.generate import Limits, Writer, greedy, next_scores, sampler, write
from xvlm.model.xvlm import XVLM
from xvlm.ranges import MaxTokens, NonNegativeInt, PositiveInt
from xvlm.records import BadRecord, Record
from xvlm.tasks._build import Built
from xvlm.tasks._conflicts import check_positions
from xvlm.tasks._dev import Evaluation, measured
from xvlm.tasks._finetune import finish, prepare
from xvlm.tasks.captioning import CaptioningRun, prompt_ids

END = "</s>"
"""Stands for the end of a caption when captions are compared, so that one that does not end loses by it."""

References = Mapping[int, Sequence[str]]
"""What people said of each image, cleaned, by `image_key`."""


@dataclass(frozen=True)
class Shown:
    """An image (3, height, width) uint8, and what people said of it."""

    pixels: Tensor
    references: tuple[str, ...]
    bad: tuple[BadRecord, ...] = ()


@dataclass(frozen=True)
class ShownBatch(Movable):
    """B images, and the references of each."""

    images: Images
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ShownView:
    """A random crop with all that people said of its image, which is mirrored with it."""

    transform: PairsTransform
    said: References

    def __call__(self, record: Record, rng: np.random.Generator) -> Shown:
        """Raises BadRecord if the record has no caption or its image cannot be used."""
        said = self.said.get(image_key(captions_only(record)), ())
        if not said:
            raise BadRecord("no text left after cleaning", record.key, "none of the image's captions has any")
        opened = open_image(record.image, key=record.key)
        return Shown(*self.transform(opened, said, rng))


def collate(parts: Mapping[str, Sequence[Shown]]) -> ShownBatch:
    """Samples of the part "train" -> one batch."""
    shown = parts["train"]
    pixels = torch.stack([one.pixels for one in shown])
    return ShownBatch(Images(pixels), tuple(one.references for one in shown))


def references(sources: Iterable[Source], max_words: int) -> References:
    """The captions of every image; those of all records that show it are brought together."""
    said: dict[int, list[str]] = {}
    for source in sources:
        for index in range(len(source)):
            try:
                record = captions_only(source[index])
            except BadRecord:
                continue  # the loader counts it
            of_image = said.setdefault(image_key(record), [])
            for text in (text for concept in record.concepts for text in concept.texts):
                with suppress(BadRecord):  # nothing is left of it; the others count
                    of_image.append(clean_caption(text, max_words))
    return said


class SelfCritical(nn.Module):
    """The model, what people said of the images, and the loss."""

    def __init__(self, model: XVLM, tokenizer: Tokenizer, cider: Cider, run: SelfCriticalRun) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.cider = cider
        self.prompt = prompt_ids(tokenizer, run.prompt, run.max_tokens)
        self.limits = Limits(tokenizer.sep_id, run.max_tokens, run.min_tokens)
        self.samples, self.baseline = run.samples, run.baseline
        self.faithful = run.faithful

    def loss_weights(self) -> dict[str, float]:
        """Weight in the sum of every loss that `forward` returns, by name; `cider` is there to be seen."""
        return {"self_critical": 1.0, "cider": 0.0}

    def forward(self, batch: ShownBatch) -> dict[str, Tensor]:
        """`self_critical` (): minus the mean over captions of log-probability a token times what the caption
        is better than its baseline; `cider` () of the captions drawn.  Both over the global batch."""
        log_R: Tensor | None = None
        drawn, best = self.captions(batch.images)
        if self.faithful:
            drawn, log_R = self.drawn_in_training(batch.images)
        device = batch.images.pixels_BCHW.device
        said = batch.references
        scores = [[self.score(ids, of) for ids in several] for several, of in zip(drawn, said, strict=True)]
        reward_BK = torch.tensor(scores, device=device)
        if self.baseline == "greedy":
            greedy_B = [self.score(ids, of) for ids, of in zip(best, said, strict=True)]
            base_BK = torch.tensor(greedy_B, device=device)[:, None]
        else:
            base_BK = (reward_BK.sum(1, keepdim=True) - reward_BK) / (self.samples - 1)
        better_R = (reward_BK - base_BK).flatten()
        if log_R is None:
            log_R = self.log_probability([ids for several in drawn for ids in several], batch.images)
        return {
            "self_critical": dist.global_mean(-(log_R * better_R).sum(), len(log_R)),
            "cider": dist.global_mean(reward_BK.sum(), reward_BK.numel()),
        }

    @torch.no_grad()
    def captions(self, images: Images) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Token ids of the captions drawn about each image, and of the greedy one (none if not needed).

        In faithful mode none is drawn here, see `drawn_in_training`.
        """
        with evaluating(self.model):
            looked_at, image_B = self.whole_images(images)
            decoder = self.model.captions
            drawn, best = [], []
            if not self.faithful:
                several = Writer(decoder, looked_at, image_B, self.samples)
                drawn = [one.ids for one in write(several, self.prompt, self.limits, sampler())]
            if self.baseline == "greedy":
                alone = Writer(decoder, looked_at, image_B)
                best = [one.ids for one in write(alone, self.prompt, self.limits, greedy)]
        return [drawn[i : i + self.samples] for i in range(0, len(drawn), self.samples)], best

    def drawn_in_training(self, images: Images) -> tuple[list[list[list[int]]], Tensor]:
        """Captions drawn with dropout, and the mean log-probability (R,) of each one's own tokens, its end
        included, from the very passes that drew them (published)."""
        looked_at, image_B = self.whole_images(images)
        decoder, device = self.model.captions, image_B.device
        image_R = image_B.repeat_interleave(self.samples)
        keys_values = decoder.cross.keys_values(looked_at)
        written = [list(self.prompt) for _ in range(len(image_R))]
        own: list[list[Tensor]] = [[] for _ in written]
        open_rows = list(range(len(written)))
        while open_rows and len(written[open_rows[0]]) < self.limits.max_length:
            ids = [written[row] for row in open_rows]
            # The decoder says nothing of what follows a text's last token: any token stands there.
            texts = Texts.pack([[*one, self.limits.end] for one in ids]).to(device)
            row_O = torch.arange(len(open_rows), device=device)
            logits_MV = decoder(texts, row_O, looked_at, image_R[open_rows], keys_values)
            logits_OV = logits_MV.view(len(open_rows), len(ids[0]), -1)[:, -1]
            log_OV = next_scores(logits_OV, torch.tensor(ids, device=device), self.limits)
            token_O = sampler()(log_OV.detach())
            log_O = log_OV.gather(1, token_O[:, None])[:, 0].to(torch.float32)
            for row, token, log in zip(open_rows, token_O.tolist(), log_O.unbind(), strict=True):
                own[row].append(log)
                if token != self.limits.end:
                    written[row].append(token)
            open_rows = [
                row
                for row, token in zip(open_rows, token_O.tolist(), strict=True)
                if token != self.limits.end
            ]
        groups = [written[i : i + self.samples] for i in range(0, len(written), self.samples)]
        return groups, torch.stack([torch.stack(logs).mean() for logs in own])

    def whole_images(self, images: Images) -> tuple[ConceptTokens, Tensor]:
        """What the decoder looks at, and the number (B,) of each image in it."""
        looked_at, cls_BD = self.model.encode_whole(self.model.encode_images(images))
        return looked_at, torch.arange(len(cls_BD), device=cls_BD.device)

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether the caption came to its end."""
        return len(ids) < self.limits.max_length

    def score(self, ids: Sequence[int], said: Sequence[str]) -> float:
        """CIDEr of a caption, prompt first, against what people said of its image.

        In faithful mode the caption is compared as it was written, and an end stands after each.
        """
        written = self.tokenizer.decode(list(ids[len(self.prompt) :]))
        if self.faithful:
            return self.cider.score(f"{written} {END}", [f"{one} {END}" for one in said])
        try:
            text = clean_caption(written)
        except BadRecord:  # nothing was written
            return 0.0
        text = f"{text} {END}" if self.complete(ids) else text
        return self.cider.score(text, [f"{one} {END}" for one in said])

    def log_probability(self, captions: Sequence[Sequence[int]], images: Images) -> Tensor:
        """(R,) mean log-probability of a caption's own tokens, its end included; as many of every image."""
        end = [self.limits.end]
        whole = [[*ids, *end] if self.complete(ids) else list(ids) for ids in captions]
        looked_at, image_B = self.whole_images(images)
        texts = Texts.pack(whole).to(image_B.device)
        row_R = torch.arange(len(texts), device=image_B.device)
        logits_MV = self.model.captions(texts, row_R, looked_at, image_B.repeat_interleave(self.samples))
        at_M, text_M = followed(texts.lengths_N)
        own_M = after_prompt(texts.lengths_N, at_M, text_M, len(self.prompt)).to(torch.float32)
        log_M = -next_token_loss(logits_MV, texts.ids_T[at_M + 1]) * own_M
        return sum_by_text(log_M, text_M, len(texts)) / sum_by_text(own_M, text_M, len(texts))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Nothing is hidden from the model for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class SelfCriticalRun(CaptioningRun):
    """Training of captions on CIDEr.

    Attributes:
        samples: captions drawn about each image.
        baseline: what a caption has to beat: the greedy one, or the mean of the others drawn.
        min_tokens, max_tokens: of a caption, prompt included.
    """

    task: str = "self_critical"
    samples: PositiveInt = 5
    baseline: Literal["greedy", "others"] = "greedy"
    min_tokens: NonNegativeInt = 0
    max_tokens: MaxTokens = 20

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        yield from super().conflicts()
        if self.baseline == "others" and self.samples < 2:
            yield f"samples is {self.samples}; with baseline 'others' it must be at least 2"
        if self.max_tokens < self.min_tokens:
            yield f"max_tokens is {self.max_tokens}; it must be {self.min_tokens} or more, as min_tokens is"


RUN = SelfCriticalRun


def build(run: SelfCriticalRun, out: Path) -> Built:
    """The task, its data and its model.

    Raises InputError if it has no data, the prompt fills a caption, or captions may be longer than the
    decoder's positions reach.
    """
    got = prepare(run, out)
    check_positions(got.loaded.model.config.text, run.max_tokens, "max_tokens")
    got = replace(got, loaded=replace(got.loaded, prompt=run.prompt))
    said = references(got.sources, run.data.max_words)
    cider = Cider([f"{text} {END}" for text in texts] for texts in said.values())
    task = SelfCritical(got.loaded.model, got.tokenizer, cider, run)
    return finish(run, got, ShownView(got.transform, said), collate, task)


def evaluation(run: SelfCriticalRun) -> Evaluation | None:
    """What the run asks to be measured while it trains, see `measured`; without Java."""
    return measured(run.dev, partial(evaluate_captions, java=False))
