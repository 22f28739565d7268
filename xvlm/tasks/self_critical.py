"""Self-critical training: the reward is the caption's CIDEr minus the greedy caption's.

Self-critical sequence training (Rennie et al. 2017; published `Captioning_scst`).  Captions are sampled
without a gradient, with cached keys and values; their log-probabilities are then computed in one pass.
Faithful mode samples in training mode and differentiates those passes themselves, as the published code does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.common.ranges import MaxTokens, NonNegativeInt, PositiveInt
from xvlm.data.images.decode import open_image
from xvlm.data.samples.builders import captions_only
from xvlm.data.samples.text_rows import hash_image
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.source import Source
from xvlm.data.text.cleaning import clean_caption
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.metrics.cider import Cider
from xvlm.models.generation.decoder import is_after_prompt, next_token_positions
from xvlm.models.generation.incremental import IncrementalDecoder, next_scores
from xvlm.models.generation.sampling import generate_tokens, greedy_choice, sampling
from xvlm.models.generation.search import LengthLimits
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.xvlm import XVLM
from xvlm.records import BadRecord, Record
from xvlm.tasks.captioning import CaptioningRun, predict, prompt_ids, validation
from xvlm.tasks.common.checks import check_positions
from xvlm.tasks.common.finetuning import finish_setup, prepare_finetuning
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task

END = "</s>"
"""Token that marks the end of a caption for CIDEr, so that a caption without an end has a lower reward."""

References = Mapping[int, Sequence[str]]
"""Cleaned reference captions of each image, by `hash_image`."""


@dataclass(frozen=True)
class SelfCriticalSample:
    """An image with its reference captions.

    Attributes:
        pixels: (3, height, width) uint8.
        references: all reference captions of the image.
        bad: always empty; the training loop reads it of every sample.
    """

    pixels: Tensor
    references: tuple[str, ...]
    bad: tuple[BadRecord, ...] = ()


@dataclass(frozen=True)
class SelfCriticalBatch(TensorTree):
    """A batch of B images with the reference captions of each."""

    images: Images
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SelfCriticalSampleBuilder:
    """Builds a sample of a record: a random crop with all reference captions of its image.

    Attributes:
        transform: transform of the image and its captions.
        references: reference captions of all images.
    """

    transform: PairTransform
    references: References

    def __call__(self, record: Record, rng: np.random.Generator) -> SelfCriticalSample:
        """Raises BadRecord if the record has no caption or its image cannot be used."""
        captions = self.references.get(hash_image(captions_only(record)), ())
        if not captions:
            raise BadRecord("no text left after cleaning", record.key, "none of the image's captions has any")
        opened = open_image(record.image, key=record.key)
        return SelfCriticalSample(*self.transform(opened, captions, rng))


def collate(streams: Mapping[str, Sequence[SelfCriticalSample]]) -> SelfCriticalBatch:
    """Collate the samples of the data stream "train"."""
    samples = streams["train"]
    pixels = torch.stack([sample.pixels for sample in samples])
    return SelfCriticalBatch(Images(pixels), tuple(sample.references for sample in samples))


def collect_references(sources: Iterable[Source], max_words: int) -> References:
    """Collect the captions of every image from all records that show it."""
    references: dict[int, list[str]] = {}
    for source in sources:
        for index in range(len(source)):
            try:
                record = captions_only(source[index])
            except BadRecord:
                continue  # the loader counts it
            captions = references.setdefault(hash_image(record), [])
            for text in (text for concept in record.concepts for text in concept.texts):
                with suppress(BadRecord):  # nothing is left of it; the others count
                    captions.append(clean_caption(text, max_words))
    return references


class SelfCritical(LossModule):
    """Policy gradient of sampled captions with CIDEr as the reward.

    J captions are sampled for each image; R = B * J rows, those of one image together.
    """

    def __init__(self, model: XVLM, tokenizer: Tokenizer, cider: Cider, run: SelfCriticalRun) -> None:
        super().__init__(model)
        self.tokenizer = tokenizer
        self.cider = cider
        self.prompt = prompt_ids(tokenizer, run.prompt, run.max_tokens)
        self.limits = LengthLimits(tokenizer.sep_id, run.max_tokens, run.min_tokens)
        self.num_samples, self.baseline = run.num_samples, run.baseline
        self.faithful = run.faithful

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name; `cider` is only logged."""
        return {"self_critical": 1.0, "cider": 0.0}

    def forward(self, batch: SelfCriticalBatch) -> dict[str, Tensor]:
        """Compute the losses of a batch, averaged over the global batch.

        Returns:
            `self_critical` (): negative mean of each caption's log-probability per token times its advantage
            over the baseline; `cider` (): mean CIDEr of the sampled captions.
        """
        log_R: Tensor | None = None
        captions, greedy = self.sample_captions(batch.images)
        if self.faithful:
            captions, log_R = self.sample_with_gradient(batch.images)
        device = batch.images.pixels_BCHW.device
        references = batch.references
        rewards = [
            [self.reward(ids, of_image) for ids in several]
            for several, of_image in zip(captions, references, strict=True)
        ]
        reward_BJ = torch.tensor(rewards, device=device)
        if self.baseline == "greedy":
            greedy_B = [self.reward(ids, of_image) for ids, of_image in zip(greedy, references, strict=True)]
            baseline_BJ = torch.tensor(greedy_B, device=device)[:, None]
        else:
            baseline_BJ = (reward_BJ.sum(1, keepdim=True) - reward_BJ) / (self.num_samples - 1)
        advantage_R = (reward_BJ - baseline_BJ).flatten()
        if log_R is None:
            log_R = self.log_probability([ids for several in captions for ids in several], batch.images)
        return {
            "self_critical": distributed.global_mean(-(log_R * advantage_R).sum(), len(log_R)),
            "cider": distributed.global_mean(reward_BJ.sum(), reward_BJ.numel()),
        }

    @torch.no_grad()
    def sample_captions(self, images: Images) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Sample captions of each image, and generate the greedy one if the baseline needs it.

        In faithful mode no caption is sampled here, see `sample_with_gradient`.

        Returns:
            token ids of J captions of each image, and of its greedy caption.
        """
        with evaluation_mode(self.model), distributed.gathered_weights(self.model):
            context, image_B = self.encode_images(images)
            decoder = self.model.caption_decoder
            sampled, greedy = [], []
            if not self.faithful:
                rows = IncrementalDecoder(decoder, context, image_B, self.num_samples)
                sampled = [one.ids for one in generate_tokens(rows, self.prompt, self.limits, sampling())]
            if self.baseline == "greedy":
                rows = IncrementalDecoder(decoder, context, image_B)
                greedy = [one.ids for one in generate_tokens(rows, self.prompt, self.limits, greedy_choice)]
        return self._by_image(sampled), greedy

    def sample_with_gradient(self, images: Images) -> tuple[list[list[list[int]]], Tensor]:
        """Sample captions with dropout, and differentiate the passes that sampled them (published).

        Returns:
            token ids of J captions of each image, and the mean log-probability (R,) of each caption's own
            tokens, its end included.
        """
        context, image_B = self.encode_images(images)
        decoder, device = self.model.caption_decoder, image_B.device
        image_R = image_B.repeat_interleave(self.num_samples)
        keys_values = decoder.cross.keys_values(context)
        captions = [list(self.prompt) for _ in range(len(image_R))]
        logs_R: list[list[Tensor]] = [[] for _ in captions]
        open_rows = list(range(len(captions)))
        while open_rows and len(captions[open_rows[0]]) < self.limits.max_length:
            ids = [captions[row] for row in open_rows]
            # The decoder predicts nothing after a text's last token: any token may stand there.
            texts = Texts.pack([[*one, self.limits.end] for one in ids]).to(device)
            row_O = torch.arange(len(open_rows), device=device)
            logits_MV = decoder(texts, row_O, context, image_R[open_rows], keys_values)
            logits_OV = logits_MV.view(len(open_rows), len(ids[0]), -1)[:, -1]
            log_OV = next_scores(logits_OV, torch.tensor(ids, device=device), self.limits)
            token_O = sampling()(log_OV.detach())
            log_O = log_OV.gather(1, token_O[:, None])[:, 0].to(torch.float32)
            tokens = token_O.tolist()
            for row, token, log in zip(open_rows, tokens, log_O.unbind(), strict=True):
                logs_R[row].append(log)
                if token != self.limits.end:
                    captions[row].append(token)
            open_rows = [
                row for row, token in zip(open_rows, tokens, strict=True) if token != self.limits.end
            ]
        return self._by_image(captions), torch.stack([torch.stack(logs).mean() for logs in logs_R])

    def _by_image(self, captions: list[list[int]]) -> list[list[list[int]]]:
        return [captions[i : i + self.num_samples] for i in range(0, len(captions), self.num_samples)]

    def encode_images(self, images: Images) -> tuple[ConceptTokens, Tensor]:
        """Return the context that the decoder attends to, and the index (B,) of each image in it."""
        context, cls_BD = self.model.encode_whole(self.model.encode_images(images))
        return context, torch.arange(len(cls_BD), device=cls_BD.device)

    def is_complete(self, ids: Sequence[int]) -> bool:
        """Whether a caption ended before the maximum length."""
        return len(ids) < self.limits.max_length

    def reward(self, ids: Sequence[int], references: Sequence[str]) -> float:
        """Return the CIDEr of a caption with the reference captions of its image.

        In faithful mode the caption is not cleaned, and every caption counts as complete.

        Args:
            ids: token ids of the caption, prompt first.
        """
        caption = self.tokenizer.decode(list(ids[len(self.prompt) :]))
        if self.faithful:
            return self.cider.score(f"{caption} {END}", [f"{one} {END}" for one in references])
        try:
            text = clean_caption(caption)
        except BadRecord:  # the caption is empty
            return 0.0
        text = f"{text} {END}" if self.is_complete(ids) else text
        return self.cider.score(text, [f"{one} {END}" for one in references])

    def log_probability(self, captions: Sequence[Sequence[int]], images: Images) -> Tensor:
        """Return the mean log-probability (R,) of each caption's own tokens, its end included.

        Args:
            captions: token ids of R captions, J of each image.
        """
        end = [self.limits.end]
        complete = [[*ids, *end] if self.is_complete(ids) else list(ids) for ids in captions]
        context, image_B = self.encode_images(images)
        texts = Texts.pack(complete).to(image_B.device)
        row_R = torch.arange(len(texts), device=image_B.device)
        logits_MV = self.model.caption_decoder(
            texts, row_R, context, image_B.repeat_interleave(self.num_samples)
        )
        at_M, text_M = next_token_positions(texts.lengths_N)
        own_M = is_after_prompt(texts.lengths_N, at_M, text_M, len(self.prompt)).to(torch.float32)
        log_M = -next_token_loss(logits_MV, texts.ids_T[at_M + 1]) * own_M
        return sum_by_text(log_M, text_M, len(texts)) / sum_by_text(own_M, text_M, len(texts))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while: no dropout."""
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
        num_samples: captions sampled for each image.
        baseline: baseline of the reward: that of the greedy caption, or the mean of the other samples.
        min_tokens: minimum number of tokens of a caption, prompt included.
        max_tokens: maximum number of tokens of a caption, prompt included.
    """

    task: str = "self_critical"
    num_samples: PositiveInt = 5
    baseline: Literal["greedy", "others"] = "greedy"
    min_tokens: NonNegativeInt = 0
    max_tokens: MaxTokens = 20

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        yield from super().conflicts()
        if self.regions:
            yield "regions is True; the reward is that of captions of whole images, so it must be False"
        if self.baseline == "others" and self.num_samples < 2:
            yield f"num_samples is {self.num_samples}; with baseline 'others' it must be at least 2"
        if self.faithful and self.shard_degree != 1:
            yield (
                f"shard_degree is {self.shard_degree}; it must be 1 in faithful mode, where ranks call their "
                "decoders for each token and not equally often, and sharded ones have to call them together"
            )
        if self.max_tokens < self.min_tokens:
            yield f"max_tokens is {self.max_tokens}; it must be {self.min_tokens} or more, as min_tokens is"


def build(run: SelfCriticalRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.

    Raises InputError if there are no data, the prompt leaves no room for a caption, or captions may be longer
    than the decoder's positions.
    """
    parts = prepare_finetuning(run, out)
    check_positions(parts.bundle.model.config.text, run.max_tokens, "max_tokens")
    parts = replace(parts, bundle=replace(parts.bundle, prompt=run.prompt))
    references = collect_references(parts.sources, run.data.max_words)
    cider = Cider([f"{text} {END}" for text in texts] for texts in references.values())
    losses = SelfCritical(parts.bundle.model, parts.tokenizer, cider, run)
    build_sample = SelfCriticalSampleBuilder(parts.transform, references)
    return finish_setup(run, parts, build_sample, collate, losses)


TASK = Task(SelfCriticalRun, build, validation=validation, predict=predict)
