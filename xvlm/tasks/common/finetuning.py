"""Shared by fine-tuning tasks: one data stream of samples, and a model that starts from a pre-trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.ranges import CropScale, MaxTokens, PositiveInt
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream, SampleBuilder
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.source import Source
from xvlm.data.text.flip import FlipRule
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.records import BadRecord, Note
from xvlm.tasks.common.checks import check_positions, uneven_batch, unused_fields
from xvlm.tasks.common.init import ModelRun, build_bundle, build_tokenizer
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.setup import TrainingSetup
from xvlm.tasks.common.sources import SourceConfig, mixture_weights, open_sources
from xvlm.tasks.common.validation import TaskValidation

T = TypeVar("T")


@dataclass(frozen=True)
class FinetuneData:
    """Data of a step.

    Attributes:
        train: sources, in the published form of the task's files.
        batch_size: samples of a global batch.
        crop_scale: range of a random crop's area as a fraction of the image's.
        random_crop: whether to crop at random; else the whole image is resized.
        random_flip: whether to flip images horizontally at random, their texts with them.
        rand_augment: whether to apply RandAugment.
        max_words: words of a text that are used.
        max_tokens: tokens of a text that are used, special tokens included.
    """

    train: tuple[SourceConfig, ...] = ()
    batch_size: PositiveInt = 64
    crop_scale: CropScale = (0.5, 1.0)
    random_crop: bool = True
    random_flip: bool = True
    rand_augment: bool = True
    max_words: PositiveInt = 40
    max_tokens: MaxTokens = 40


@dataclass(frozen=True)
class FinetuneRun(ModelRun):
    """A fine-tuning run; each task's run type says which heads its model has.

    Attributes:
        data: data of a step.
        validation: data that the model is evaluated on during training.
    """

    data: FinetuneData = field(default_factory=FinetuneData)
    validation: TaskValidation = field(default_factory=TaskValidation)

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        yield from uneven_batch("data.batch_size", self.data.batch_size, self.accumulation_steps)
        missing = set(type(self)().model.heads) - set(self.model.heads)
        if missing:
            yield f"model.heads is {self.model.heads}; {self.task} trains {', '.join(sorted(missing))} too"
        yield from unused_fields(self)


@dataclass(frozen=True, kw_only=True)
class ImageSample:
    """An image of a training sample; the samples of the tasks add their texts.

    Attributes:
        pixels: (3, height, width) uint8.
        bad: texts of the record that cannot be used.
        notes: texts that were truncated or have unknown tokens.
    """

    pixels: Tensor
    bad: Sequence[BadRecord] = ()
    notes: Sequence[Note] = ()


def encode_usable(
    texts: Iterable[T], encode: Callable[[T], list[int]], key: str, bad: list[BadRecord]
) -> list[tuple[T, list[int]]]:
    """Encode texts, each of which `encode` may refuse by BadRecord.

    Args:
        key: key of the record.
        bad: gets the errors of refused texts.
    Returns:
        the other texts with their token ids.
    Raises:
        BadRecord: no text is left.
    """
    encoded = []
    for text in texts:
        try:
            encoded.append((text, encode(text)))
        except BadRecord as error:
            bad.append(BadRecord(error.reason, key, error.detail))
    if not encoded:
        raise bad[-1]
    return encoded


@dataclass(frozen=True)
class FinetuneParts:
    """Data and model of a fine-tuning run, before its samples and losses are built.

    Attributes:
        sources: opened training sources.
        tokenizer: tokenizer of the model.
        bundle: the model with its initial weights.
        pretrained_names: names of the model's parameters that a checkpoint provided.
        transform: transform of an image and its texts.
    """

    sources: Sequence[Source]
    tokenizer: Tokenizer
    bundle: ModelBundle
    pretrained_names: set[str]
    transform: PairTransform


def prepare_finetuning(
    run: FinetuneRun, out: Path, published_flip_rule: FlipRule = "always"
) -> FinetuneParts:
    """Open the data and build the model of a run.

    Args:
        out: folder of the run, which gets the tokenizer.
        published_flip_rule: which images are flipped in faithful mode.
    Raises:
        InputError: there is no data.
    """
    data = run.data
    if not data.train:
        raise InputError("the run has no data: data.train is empty")
    sources = open_sources({"train": data.train})["train"]
    tokenizer = build_tokenizer(run.init, sources, out)
    bundle, pretrained_names = build_bundle(run, tokenizer)
    check_positions(bundle.model.config.text, data.max_tokens)
    transform = PairTransform(
        bundle.model.config.vision.image_hw,
        data.crop_scale,
        data.random_crop,
        data.random_flip,
        (2, 7) if data.rand_augment else None,
        published_flip_rule if run.faithful else "exact",
    )
    bundle = replace(bundle, max_words=data.max_words, max_tokens=data.max_tokens)
    return FinetuneParts(sources, tokenizer, bundle, pretrained_names, transform)


def finish_setup(
    run: FinetuneRun,
    parts: FinetuneParts,
    build_sample: SampleBuilder,
    collate: Callable[[dict[str, list[Any]]], Any],
    loss_module: LossModule,
) -> TrainingSetup:
    """Return a run that is ready to start; its samples are the data stream "train"."""
    weights = mixture_weights(run.data.train, parts.sources)
    stream = DataStream("train", parts.sources, run.data.batch_size, build_sample, weights)
    steps = StepDataset(
        [stream],
        collate,
        run.seed,
        distributed.rank(),
        distributed.world_size(),
        run.accumulation_steps,
    )
    return TrainingSetup(loss_module, steps, parts.bundle, parts.pretrained_names)
