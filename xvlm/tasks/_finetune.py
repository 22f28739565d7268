"""What fine-tuning runs share: one source of samples, a model that begins as a pre-trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from xvlm import dist
from xvlm.data.loader import Feed, Part, View
from xvlm.data.mirror import MirrorRule
from xvlm.data.sources import Source
from xvlm.data.text import Tokenizer
from xvlm.data.transforms import PairsTransform
from xvlm.errors import InputError
from xvlm.model.folder import Loaded
from xvlm.model.xvlm import ModelConfig
from xvlm.ranges import CropScale, MaxTokens, PositiveInt
from xvlm.run import Run
from xvlm.tasks._build import (
    Built,
    Init,
    SourceConfig,
    build_loaded,
    build_tokenizer,
    mixture,
    open_parts,
)
from xvlm.tasks._conflicts import check_positions, uneven
from xvlm.tasks._dev import FinetuneDev


@dataclass(frozen=True)
class FinetuneData:
    """What a step is made of.

    Attributes:
        train: sources, in the published form of the task's file.
        batch: samples in a global batch.
        scale: of random crops; crop, flip, rand_augment: see `data/transforms.py`.
        max_words: of a text, before it is cut into tokens; max_tokens: after.
    """

    train: tuple[SourceConfig, ...] = ()
    batch: PositiveInt = 64
    scale: CropScale = (0.5, 1.0)
    crop: bool = True
    flip: bool = True
    rand_augment: bool = True
    max_words: PositiveInt = 40
    max_tokens: MaxTokens = 40


@dataclass(frozen=True)
class FinetuneRun(Run):
    """A fine-tuning run; each task says which parts its model has."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: Init = field(default_factory=Init)
    data: FinetuneData = field(default_factory=FinetuneData)
    dev: FinetuneDev = field(default_factory=FinetuneDev)

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        yield from uneven("data.batch", self.data.batch, self.accumulate)
        missing = set(type(self)().model.parts) - set(self.model.parts)
        if missing:
            yield f"model.parts is {self.model.parts}; {self.task} trains {', '.join(sorted(missing))} too"


@dataclass(frozen=True)
class Prepared:
    """Data and model of a fine-tuning run, before they meet.

    Attributes:
        transform: of an image's view, the texts with it.
        given: names of the model's parameters that came from somewhere.
    """

    sources: Sequence[Source]
    tokenizer: Tokenizer
    loaded: Loaded
    given: set[str]
    transform: PairsTransform


def prepare(run: FinetuneRun, out: Path, published_mirror: MirrorRule = "always") -> Prepared:
    """Open the data and build the model; `published_mirror`: which images faithful mode mirrors.

    Raises InputError if there is no data.
    """
    data = run.data
    if not data.train:
        raise InputError("the run has no data: data.train is empty")
    sources = open_parts({"train": data.train})["train"]
    tokenizer = build_tokenizer(run.init, sources, out)
    loaded, given = build_loaded(run.model, run.init, tokenizer, run.seed)
    check_positions(loaded.model.config.text, data.max_tokens)
    loaded = replace(loaded, max_words=data.max_words, max_tokens=data.max_tokens)
    augment = (2, 7) if data.rand_augment else None
    size = loaded.model.config.vision.image_hw
    mirror: MirrorRule = published_mirror if run.faithful else "exact"
    transform = PairsTransform(size, data.scale, data.crop, data.flip, augment, mirror=mirror)
    return Prepared(sources, tokenizer, loaded, given, transform)


def finish(
    run: FinetuneRun,
    prepared: Prepared,
    view: View,
    collate: Callable[[dict[str, list[Any]]], Any],
    task: nn.Module,
) -> Built:
    """A run that is ready to start; its samples are the part "train"."""
    data = run.data
    part = Part("train", prepared.sources, data.batch, view, mixture(data.train, prepared.sources))
    feed = Feed([part], collate, run.seed, dist.rank(), dist.world(), run.accumulate)
    return Built(task, feed, prepared.loaded, prepared.given)
