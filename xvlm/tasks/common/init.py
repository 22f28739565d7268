"""Initial weights, model sizes and tokenizer of a run.

The configuration says what is trained: a field that the initial weights decide must be left at its default
or agree with them, and `run.json` records the model that was trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.ranges import NonNegativeInt, PositiveInt
from xvlm.config import Run
from xvlm.data.sources.source import Source
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.calibration import Calibration
from xvlm.models.checkpoints.adapt import adapt_model
from xvlm.models.checkpoints.folder import ModelBundle, load_model, load_model_config, local_folder
from xvlm.models.checkpoints.initial_weights import bert_config, load_bert, load_vision_by_order
from xvlm.models.checkpoints.vocabulary import check_vocabulary
from xvlm.models.checkpoints.weight_files import bert_folder, find_weights
from xvlm.models.xvlm import ModelConfig, build_model
from xvlm.tasks.common.sources import tokenizer_corpus

R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class InitConfig:
    """Initial weights; empty fields initialise randomly.

    Attributes:
        model: a model folder, or a hub repository of that form.  It decides the sizes; the run decides
            `model.heads`, `model.labels`, `model.vision.patch_dropout` and `model.text.dropout`.
        image_size: height and width of the images in pixels, if they differ from those of `model`; position
            embeddings are interpolated.  0 keeps them.
        vision: "timm" for timm's pre-trained weights, or `python:PACKAGE` or a file whose tensors are in the
            timm model's order.
        text: a BERT or RoBERTa: a folder, a hub id, or `python:PACKAGE`.  It decides the sizes of the text
            stack and the tokenizer; the run decides `text_layers`, `cross_layers`, `pooling` and `dropout`.
        evenly_spaced_layers: whether the cross-modal layers of a deeper text model are evenly spaced up to
            its last layer (published for X-VLM-large), instead of following the text layers.
        tokenizer: folder with a tokenizer, if `text` provides none; empty: a WordPiece vocabulary is trained
            on the texts of the training sources.
        vocab_size: size of a trained vocabulary.
        vocab_records: records of each source that a vocabulary is trained on.
    """

    model: str = ""
    image_size: NonNegativeInt = 0
    vision: str = ""
    text: str = ""
    evenly_spaced_layers: bool = False
    tokenizer: str = ""
    vocab_size: PositiveInt = 8000
    vocab_records: PositiveInt = 20_000

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each field that another one makes meaningless; see `validate`."""
        unused = {
            "model": ("vision", "text", "evenly_spaced_layers", "tokenizer", "vocab_size", "vocab_records"),
            "text": ("tokenizer", "vocab_size", "vocab_records"),
            "tokenizer": ("vocab_size", "vocab_records"),
        }
        defaults = InitConfig()
        for cause, names in unused.items():
            for name in names if getattr(self, cause) else ():
                if getattr(self, name) != getattr(defaults, name):
                    yield (
                        f"{name} is {getattr(self, name)!r}, which has no effect together with "
                        f"{cause} {getattr(self, cause)!r}; leave one of them out"
                    )
        if self.image_size and not self.model:
            yield f"image_size is {self.image_size}, which needs model; set model.vision.image_hw instead"
        if self.evenly_spaced_layers and not self.text:
            yield "evenly_spaced_layers is True, which needs text"


@dataclass(frozen=True)
class ModelRun(Run):
    """A run that trains a model.

    Attributes:
        model: sizes and heads of the model.
        init: initial weights and tokenizer.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)


def resolve_model(run: R) -> R:
    """Return the run with the model that its initial weights decide; a run without a model stays as it is.

    The size of a vocabulary that is yet to be trained stays open.

    Raises InputError for a field that differs both from its default and from the initial weights.
    """
    if not isinstance(run, ModelRun):
        return run
    default, model = type(run)().model, run.model
    if run.init.model:
        own = load_model_config(run.init.model)
        size = run.init.image_size
        vision = replace(
            own.vision,
            image_hw=(size, size) if size else own.vision.image_hw,
            patch_dropout=model.vision.patch_dropout,
        )
        text = replace(own.text, dropout=model.text.dropout)
        actual = replace(own, heads=model.heads, labels=model.labels, vision=vision, text=text)
        _check_fields(model, default, actual, "model.", f"init.model {run.init.model}")
        return replace(run, model=actual)
    if run.init.text:
        own_text = bert_config(
            bert_folder(run.init.text), model.text.text_layers, model.text.cross_layers, model.text.pooling
        )
        text = replace(own_text, dropout=model.text.dropout)
        _check_fields(model.text, default.text, text, "model.text.", f"init.text {run.init.text}")
        return replace(run, model=replace(model, text=text))
    return run


def _check_fields(given: Any, default: Any, actual: Any, prefix: str, origin: str) -> None:
    """Raise InputError for a field of `given` that is neither the default nor what `origin` decides."""
    for one in dataclasses.fields(given):
        values = [getattr(tree, one.name) for tree in (given, default, actual)]
        if dataclasses.is_dataclass(values[0]):
            _check_fields(values[0], values[1], values[2], f"{prefix}{one.name}.", origin)
        elif values[0] not in values[1:] and not (isinstance(values[0], Mapping) and not values[0]):
            raise InputError(
                f"{prefix}{one.name} is {values[0]!r}, but {origin} decides it: {values[2]!r}; leave it out"
            )


def build_tokenizer(init: InitConfig, sources: Iterable[Source], saved: Path) -> Tokenizer:
    """Load the tokenizer that `init` names, or train one on the sources' texts.

    It is saved in the folder `saved`, where the other processes, and a resumed run, find it.
    """
    with distributed.main_first():
        if not distributed.is_main() or any(saved.glob("checkpoints/step_*")):
            return Tokenizer.from_folder(saved)
        if init.model:
            tokenizer = Tokenizer.from_folder(local_folder(init.model))
        elif init.text or init.tokenizer:
            tokenizer = Tokenizer.from_folder(bert_folder(init.text) if init.text else Path(init.tokenizer))
        else:
            corpus = tokenizer_corpus(sources, init.vocab_records)
            tokenizer = Tokenizer.train_wordpiece(corpus, init.vocab_size)
        tokenizer.save(saved)
        return tokenizer


def build_bundle(run: ModelRun, tokenizer: Tokenizer) -> tuple[ModelBundle, set[str]]:
    """Build the model of a run with its initial weights.

    Returns:
        the model with its tokenizer, and the names of the parameters that a checkpoint provided.
    Raises:
        InputError: the vocabulary and the token embeddings differ in size, or weights do not fit.
    """
    run = resolve_model(run)
    init, config = run.init, run.model
    if init.model:
        source = load_model(init.model)
        check_vocabulary(source.tokenizer, config.text.vocab_size, init.model)
        torch.manual_seed(run.seed)
        adapted, names = adapt_model(source.model, config)
        # The weights were fitted for the heads as they were.
        adapted_source = replace(
            source, model=adapted, matching_weight=1.0, phrase_weight=0.0, calibration=Calibration()
        )
        return adapted_source, names
    if not init.text:
        size = tokenizer.vocab_size
        if config.text.vocab_size not in (type(run)().model.text.vocab_size, size):
            raise InputError(
                f"model.text.vocab_size is {config.text.vocab_size}, but the tokenizer decides it: {size}; "
                "leave it out"
            )
        config = replace(config, text=replace(config.text, vocab_size=size))
    check_vocabulary(tokenizer, config.text.vocab_size, init.text or "the model")
    torch.manual_seed(run.seed)
    model = build_model(config, pretrained_vision=init.vision == "timm")
    if init.vision and init.vision != "timm":
        load_vision_by_order(model.vision.tower(), find_weights(init.vision))
    pretrained: set[str] = set()
    if init.vision:
        names = {name for name, _ in model.vision.named_parameters()}
        pretrained = {f"vision.{name}" for name in names if not name.startswith("norm.")}
    if init.text:
        pretrained |= load_bert(model, bert_folder(init.text), init.evenly_spaced_layers)[0]
    return ModelBundle(model, tokenizer), pretrained
