"""Captioning: a causal text stack that attends to the image (published `XVLMForCaptioning`).

A caption starts with a prompt, whose tokens are no targets, and ends in `[SEP]`.  With `regions` the texts of
regions are learnt as well, each from the patches of its box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Concepts, Images, TensorTree, Texts
from xvlm.common.errors import InputError
from xvlm.common.ranges import Decay, PositiveInt
from xvlm.data.images.decode import open_image
from xvlm.data.loading.streams import SampleBuilder
from xvlm.data.samples.builders import captions_only
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.samples.transforms import PairTransform, RegionTransform
from xvlm.data.text.cleaning import clean_caption, truncate_words
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.evaluation.captioning import MEASURE, evaluate_captioning
from xvlm.losses.language import next_token_loss
from xvlm.models.generation.decoder import is_after_prompt, next_token_positions
from xvlm.models.xvlm import XVLM, ModelConfig
from xvlm.records import BadRecord, BoxXYXY, Note, Record
from xvlm.tasks.common.finetuning import (
    FinetuneData,
    FinetuneRun,
    ImageSample,
    finish_setup,
    prepare_finetuning,
)
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.task import Task
from xvlm.tasks.common.validation import Evaluation, task_validation

PROMPT = "a picture of "


@dataclass(frozen=True, kw_only=True)
class CaptionSample(ImageSample):
    """An image with tokenized captions.

    Attributes:
        captions: token ids of each caption, prompt and `[SEP]` included.
        boxes_xyxy: box of each caption as fractions of the crop; empty if all describe the whole image.
    """

    captions: Sequence[Sequence[int]]
    boxes_xyxy: Sequence[BoxXYXY] = ()


@dataclass(frozen=True)
class CaptionBatch(TensorTree):
    """A batch of B images with N captions, at least one each.

    Attributes:
        images: B images.
        captions: N captions.
        image_N: (N,) int64 index of each caption's image.
        prompt_length: tokens of the prompt that every caption starts with, `[CLS]` included.
        concepts: what each caption describes; `None` if all describe whole images.
    """

    images: Images
    captions: Texts
    image_N: Tensor
    prompt_length: int
    concepts: Concepts | None = None


@dataclass(frozen=True)
class CaptionSampleBuilder:
    """Builds a sample of a record: a random crop with captions sampled from the record.

    Attributes:
        transform: transform of the image and its captions.
        tokenizer: tokenizer of the model.
        prompt: text that every caption starts with.
        captions_per_image: maximum number of captions.
        max_words: words of a caption that are used.
        max_tokens: tokens of a caption that are used, prompt included.
    """

    transform: PairTransform
    tokenizer: Tokenizer
    prompt: str = PROMPT
    captions_per_image: int = 1
    max_words: int = 40
    max_tokens: int = 40

    def __call__(self, record: Record, rng: np.random.Generator) -> CaptionSample:
        """Raises BadRecord if the record has no caption or its image cannot be used."""
        record = captions_only(record)
        opened = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, opened, notes)
        texts = [text for concept in concepts for text in concept.texts]
        chosen = rng.permutation(len(texts))[: self.captions_per_image]
        pixels, captions = self.transform(opened, [texts[index] for index in chosen], rng)
        ids, unusable = [], []
        for text in captions:
            try:
                ids.append(self.encode(text, record.key, notes))
            except BadRecord as error:
                unusable.append(BadRecord(error.reason, record.key, error.detail))
        if not ids:
            raise unusable[0]
        return CaptionSample(pixels=pixels, captions=ids, bad=(*bad, *unusable), notes=notes)

    def encode(self, text: str, key: str, notes: list[Note]) -> list[int]:
        """Return the `caption_ids` of a text.  Raises BadRecord if nothing is left of it."""
        return self.caption_ids(truncate_words(clean_caption(text), self.max_words, key, notes), key, notes)

    def caption_ids(self, caption: str, key: str, notes: list[Note]) -> list[int]:
        """Return `[CLS]`, prompt, caption, `[SEP]`; the caption is truncated to `max_tokens` in all."""
        prompt = len(prompt_ids(self.tokenizer, self.prompt, self.max_tokens)) - 1
        text = f"{self.prompt}{caption}"
        return self.tokenizer.encode_known(text, self.max_tokens, True, key, notes, prompt)


@dataclass(frozen=True)
class RegionCaptionSampleBuilder:
    """Builds a sample of a record: a crop with texts of its regions, and captions of the whole crop.

    Attributes:
        transform: transform of the image and its regions.
        captions: how a text becomes a caption, and how many there are.
    """

    transform: RegionTransform
    captions: CaptionSampleBuilder

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model."""
        return self.captions.tokenizer

    def __call__(self, record: Record, rng: np.random.Generator) -> CaptionSample:
        """Raises BadRecord if the record has no usable text or its image cannot be used."""
        opened = open_image(record.image, key=record.key)
        notes: list[Note] = []
        concepts, bad = usable_concepts(record, opened, notes)
        pixels, visible = self.transform(opened, concepts, rng)
        described = [(text, one.box_xyxy) for one in visible for text in one.concept.texts]
        ids, boxes, unusable = [], [], []
        for index in rng.permutation(len(described))[: self.captions.captions_per_image]:
            text, box = described[index]
            try:
                ids.append(self.captions.encode(text, record.key, notes))
                boxes.append(box)
            except BadRecord as error:
                unusable.append(BadRecord(error.reason, record.key, error.detail))
        if not ids:
            raise (*unusable, *bad, BadRecord("no concept", record.key, "there is no text to learn"))[0]
        return CaptionSample(
            pixels=pixels, captions=ids, boxes_xyxy=boxes, bad=(*bad, *unusable), notes=notes
        )


def prompt_ids(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> list[int]:
    """Return `[CLS]` and the prompt.  Raises InputError if it leaves no room for a caption."""
    ids = tokenizer.encode(prompt, max_tokens, allow_empty=True)
    if len(ids) >= max_tokens:
        raise InputError(f"max_tokens is {max_tokens}; the prompt, {prompt!r}, leaves none for a caption")
    return ids


@dataclass(frozen=True)
class CaptionCollate:
    """Collates the samples of the data stream "train".

    Attributes:
        prompt_length: see `CaptionBatch`.
    """

    prompt_length: int

    def __call__(self, streams: Mapping[str, Sequence[CaptionSample]]) -> CaptionBatch:
        """Return the batch."""
        samples = streams["train"]
        image_N = torch.tensor([image for image, sample in enumerate(samples) for _ in sample.captions])
        boxes = [box for sample in samples for box in sample.boxes_xyxy]
        return CaptionBatch(
            Images(torch.stack([sample.pixels for sample in samples])),
            Texts.pack([ids for sample in samples for ids in sample.captions]),
            image_N,
            self.prompt_length,
            Concepts(image_N, torch.tensor(boxes), torch.ones(len(boxes), dtype=torch.bool))
            if boxes
            else None,
        )


class Captioning(LossModule):
    """Captioning as next-token prediction."""

    def __init__(self, model: XVLM, smoothing: float, faithful: bool) -> None:
        super().__init__(model)
        self.smoothing = smoothing
        self.faithful = faithful

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss in the total, by name."""
        return {"caption": 1.0}

    def forward(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """Compute `caption` (): mean cross-entropy of the tokens after the prompt, over the global batch."""
        model, captions = self.model, batch.captions
        features = model.encode_images(batch.images)
        caption_N = torch.arange(len(captions), device=captions.ids_T.device)
        if batch.concepts is None:
            concepts, _ = model.encode_whole(features)
            concept_N = batch.image_N
        else:
            concepts, _ = model.encode_concepts(features, batch.concepts)
            concept_N = caption_N
        logits_MV = model.caption_decoder(captions, caption_N, concepts, concept_N)
        at_M, text_M = next_token_positions(captions.lengths_N)
        loss_M = next_token_loss(logits_MV, captions.ids_T[at_M + 1], self.smoothing, self.faithful)
        target_M = is_after_prompt(captions.lengths_N, at_M, text_M, batch.prompt_length)
        count = int(target_M.sum())
        return {"caption": distributed.global_mean((loss_M * target_M).sum(), count)}


@dataclass(frozen=True)
class CaptioningRun(FinetuneRun):
    """Fine-tuning for captions.

    Attributes:
        prompt: text that every caption starts with.
        captions_per_image: captions of each image in a step, which encodes the image once.
        regions: whether the texts of regions are captions, too, each of its box.
        label_smoothing: label smoothing of the cross-entropy.
    """

    task: str = "captioning"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(heads=("caption_decoder",)))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(batch_size=256))
    prompt: str = PROMPT
    captions_per_image: PositiveInt = 1
    regions: bool = False
    label_smoothing: Decay = 0.1


def build(run: CaptioningRun, out: Path) -> TrainingSetup:
    """Build the model, the losses and the data of a run.  Raises InputError if there are no data."""
    parts, data = prepare_finetuning(run, out), run.data
    captions = CaptionSampleBuilder(
        parts.transform, parts.tokenizer, run.prompt, run.captions_per_image, data.max_words, data.max_tokens
    )
    build_sample: SampleBuilder = captions
    if run.regions:
        one = parts.transform
        regions = RegionTransform(
            one.size_hw, one.random_crop, one.random_flip, one.rand_augment, one.flip_rule
        )
        build_sample = RegionCaptionSampleBuilder(regions, captions)
    collate = CaptionCollate(len(prompt_ids(parts.tokenizer, run.prompt, data.max_tokens)))
    parts = replace(parts, bundle=replace(parts.bundle, prompt=run.prompt))
    losses = Captioning(parts.bundle.model, run.label_smoothing, run.faithful)
    return finish_setup(run, parts, build_sample, collate, losses)


def validation(run: CaptioningRun) -> Evaluation | None:
    """Return what evaluates the model during training: no METEOR and SPICE, which need Java and minutes."""
    return task_validation(run.validation, partial(evaluate_captioning, java=False))


def predict(predictor: Any, image: str) -> str:
    """Generate a caption of an image.

    Args:
        image: path or URL of an image.
    """
    caption: str = predictor.image(image).caption()
    return caption


TASK = Task(CaptioningRun, build, MEASURE, validation, predict=predict)
