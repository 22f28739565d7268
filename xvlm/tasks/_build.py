"""What every task's run is built from: a tokenizer, a model with its first weights, sources of records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from xvlm import dist
from xvlm.data.cached import CachedSource
from xvlm.data.fields import answers_in
from xvlm.data.json_text import is_unicode
from xvlm.data.loader import Feed
from xvlm.data.probe import check_images
from xvlm.data.published import USUAL_KEYS, Keys
from xvlm.data.sources import Source, open_source
from xvlm.data.text import Tokenizer, clean_caption
from xvlm.model.adapt import adapted
from xvlm.model.folder import Loaded, load_model, local_folder
from xvlm.model.vocabulary import check_vocabulary
from xvlm.model.weights import bert_config, bert_folder, find_weights, load_bert, load_vision_by_order
from xvlm.model.xvlm import ModelConfig, build_model
from xvlm.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from xvlm.records import BadRecord, Record


@dataclass(frozen=True)
class Init:
    """Where first weights come from; empty: new ones.

    Attributes:
        model: a model folder of ours, or a hub repository of that form.  Everything else here is then
            ignored, and so are the run's sizes; its parts and labels, and what hides something while training
            (`patch_dropout`, the text stack's `dropout`), are the run's.
        image_size: with `model`: side of the images, where it is to be another one; positions are resized.
        vision: "timm" for timm's pre-trained weights, or `python:PACKAGE` or a file whose tensors stand in
            the timm model's order.
        text: a BERT or RoBERTa: a folder, a hub id, or `python:PACKAGE`.  Sizes and tokenizer are its own;
            only the numbers of layers and the pooling are taken from the model's configuration.
        spread: of a deeper text model, take layers up to the last for the cross-modal encoder, evenly spread,
            instead of the next ones (published for X-VLM-large).
        tokenizer: a folder with one, where `text` gives none; empty: a WordPiece vocabulary is trained on
            the texts of the training sources.
        vocab_size: of such a vocabulary; corpus: records of each source that it is trained on.
    """

    model: str = ""
    image_size: NonNegativeInt = 0
    vision: str = ""
    text: str = ""
    spread: bool = False
    tokenizer: str = ""
    vocab_size: PositiveInt = 8000
    corpus: PositiveInt = 20_000


@dataclass(frozen=True)
class SourceConfig:
    """Records from one place, as `open_source` reads it.

    Attributes:
        path: file, glob, folder or scheme.
        image_root: where image paths start; empty: beside the file.
        weight: share in a mixture; 0 stands for the number of records.
        cache: keep records in memory once they have been read; for sources that fit.
        image_key, caption_key: names of the fields with the image and its captions; empty: the usual ones.
        is_image_rpath: whether the image's field is a path, else base64; unset: by its usual meaning.
        tokenized: texts are word pieces with spaces between them (the published 16M region files).
    """

    path: str
    image_root: str = ""
    weight: NonNegativeFloat = 0.0
    cache: bool = False
    image_key: str = ""
    caption_key: str = ""
    is_image_rpath: bool | None = None
    tokenized: bool = False

    @property
    def keys(self) -> Keys:
        """Names of fields, as readers take them."""
        return Keys(
            self.image_key or None,
            self.is_image_rpath,
            self.caption_key or USUAL_KEYS.caption_key,
            self.tokenized,
        )


@dataclass(frozen=True)
class StemPlan:
    """Views of which the frozen stem is to be computed before training (`train/stem_cache.py`)."""

    folder: Path
    sources: Sequence[Source]
    views: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class Built:
    """A run, ready to start.

    Attributes:
        task: losses by name from a batch; `task.model` is what is trained.
        feed: the batch of every step.
        loaded: the model with its tokenizer, as it will be saved.
        given: names of the model's parameters that came from somewhere.
        stem: what has to be computed first, if anything.
    """

    task: nn.Module
    feed: Feed
    loaded: Loaded
    given: set[str]
    stem: StemPlan | None = None


def open_parts(parts: Mapping[str, Sequence[SourceConfig]]) -> dict[str, list[Source]]:
    """The sources of each part; parts that name the same source share it.

    Raises MissingFileError or InputError for what cannot be opened, and where nearly no image file is there.
    """
    opened: dict[SourceConfig, Source] = {}
    for config in dict.fromkeys(config for configs in parts.values() for config in configs):
        source = open_source(config.path, config.image_root or None, config.keys)
        check_images(source)
        opened[config] = CachedSource(source) if config.cache else source
    return {name: [opened[config] for config in configs] for name, configs in parts.items()}


def mixture(configs: Sequence[SourceConfig], sources: Sequence[Source]) -> list[float]:
    """The share of each source."""
    return [config.weight or float(len(source)) for config, source in zip(configs, sources, strict=True)]


def build_tokenizer(init: Init, sources: Iterable[Source], saved: Path) -> Tokenizer:
    """The tokenizer that `init` names, or one trained on the sources' texts.

    It is kept in `saved`, where a run that goes on, and all processes but the main one, find it.
    """
    with dist.main_first():
        if not dist.is_main() or any(saved.glob("checkpoints/step_*")):
            return Tokenizer.from_folder(saved)
        if init.model:
            tokenizer = Tokenizer.from_folder(local_folder(init.model))
        elif init.text or init.tokenizer:
            tokenizer = Tokenizer.from_folder(bert_folder(init.text) if init.text else Path(init.tokenizer))
        else:
            tokenizer = Tokenizer.train_wordpiece(corpus(sources, init.corpus), init.vocab_size)
        tokenizer.save(saved)
        return tokenizer


def corpus(sources: Iterable[Source], limit: int) -> list[str]:
    """Cleaned texts of up to `limit` records of each source, evenly spread; bad records are passed over here,
    for the loader counts them."""
    texts = []
    for source in sources:
        for index in range(0, len(source), max(1, len(source) // limit)):
            try:
                texts += [clean_caption(text) for text in texts_of(source[index])]
            except BadRecord:
                continue
    return texts


def texts_of(record: Record) -> list[str]:
    """Everything that a record says: of its concepts, and what it asks, answers and states."""
    said = [text for concept in record.concepts for text in concept.texts]
    asked = [record.extra, *record.extra.get("questions", ()), *record.extra.get("statements", ())]
    for fields in asked:
        if isinstance(fields, Mapping):
            said += [str(fields[name]) for name in ("question", "sentence") if fields.get(name) is not None]
            said += answers_in(fields, record.key)
    return [text for text in said if text.strip() and is_unicode(text)]


def build_loaded(config: ModelConfig, init: Init, tokenizer: Tokenizer, seed: int) -> tuple[Loaded, set[str]]:
    """A model with its first weights, and the names of the parameters that came from somewhere."""
    if init.model:
        return continued(config, init, seed)
    folder = bert_folder(init.text) if init.text else None
    if folder:
        text = bert_config(folder, config.text.text_layers, config.text.cross_layers, config.text.pooling)
        text = dataclasses.replace(text, dropout=config.text.dropout)
    else:
        text = dataclasses.replace(config.text, vocab_size=tokenizer.vocab_size)
    check_vocabulary(tokenizer, text.vocab_size, init.text or "the model")
    config = dataclasses.replace(config, text=text)
    torch.manual_seed(seed)
    given: set[str] = set()
    model = build_model(config, pretrained_vision=init.vision == "timm")
    if init.vision and init.vision != "timm":
        load_vision_by_order(model.vision.tower(), find_weights(init.vision))
    if init.vision:
        given |= {
            f"vision.{name}" for name, _ in model.vision.named_parameters() if not name.startswith("norm.")
        }
    if folder:
        given |= load_bert(model, folder, init.spread)[0]
    return Loaded(model, tokenizer), given


def continued(config: ModelConfig, init: Init, seed: int) -> tuple[Loaded, set[str]]:
    """A model folder's model with the parts that the run asks for; see `Init.model`."""
    loaded = load_model(init.model)
    own = loaded.model.config
    check_vocabulary(loaded.tokenizer, own.text.vocab_size, init.model)
    image_hw = (init.image_size, init.image_size) if init.image_size else own.vision.image_hw
    vision = dataclasses.replace(own.vision, image_hw=image_hw, patch_dropout=config.vision.patch_dropout)
    text = dataclasses.replace(own.text, dropout=config.text.dropout)
    torch.manual_seed(seed)
    wanted = dataclasses.replace(own, parts=config.parts, labels=config.labels, vision=vision, text=text)
    model, given = adapted(loaded.model, wanted)
    return dataclasses.replace(loaded, model=model), given
