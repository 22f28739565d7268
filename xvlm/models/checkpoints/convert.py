"""`xvlm convert`: convert a checkpoint of the published X-VLM to a model folder, and back."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvlm.common.atomic import atomic_file
from xvlm.common.errors import InputError, MissingFileError, OutputError, describe_error, printable
from xvlm.common.json_file import read_json
from xvlm.common.outputs import check_free_space, check_output_file
from xvlm.common.terminal import print_notice
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.checkpoints.folder import (
    ModelBundle,
    check_model_output,
    load_model,
    local_folder,
    save_model,
)
from xvlm.models.checkpoints.initial_weights import load_tensors
from xvlm.models.checkpoints.position_resize import fit_positions
from xvlm.models.checkpoints.published_files import read_checkpoint
from xvlm.models.checkpoints.published_names import from_published, to_published
from xvlm.models.checkpoints.published_sizes import UnseenSizes, config_of
from xvlm.models.checkpoints.vocabulary import KNOWN, check_vocabulary
from xvlm.models.checkpoints.weight_files import bert_folder
from xvlm.models.xvlm import XVLM, ModelConfig, build_model

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_published(path: Path, ema: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read state dict and configuration of a checkpoint; notes go to stderr.  See `read_checkpoint`."""
    checkpoint = read_checkpoint(path, ema)
    for note in checkpoint.notes:
        print_notice(f"{path.name}: {note}")
    return checkpoint.tensors, checkpoint.config


def tokenizer_for(spec: str, config: Mapping[str, Any]) -> Tokenizer:
    """Load the tokenizer `spec`, or that of the text model from which the checkpoint was initialized.

    The checkpoint is not trusted: it may only name a model on the hub.

    Raises MissingFileError naming the option if there is none.
    """
    try:
        if not spec:
            spec = _text_model_of(config)
        return Tokenizer.from_folder(Path(spec) if Path(spec).is_dir() else bert_folder(spec))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no tokenizer: {error}. Say where it is with --tokenizer: a folder with tokenizer.json or "
            "vocab.txt, or a hub id (the published models use bert-base-uncased and roberta-base)"
        ) from error


def _text_model_of(config: Mapping[str, Any]) -> str:
    """Return the text model that a checkpoint's configuration names, a published one without its folder.

    Raises MissingFileError if it names none, InputError if the name could be anything but a model's.
    """
    name = config.get("text_encoder", "")
    if not name:
        raise MissingFileError("the checkpoint does not say which tokenizer it was trained with")
    last = str(name).rstrip("/").rpartition("/")[2]
    if last in {known.name for known in KNOWN}:  # published configurations say data/bert-base-uncased
        return last
    if not isinstance(name, str) or not HUB_ID.fullmatch(name) or ".." in name:
        raise InputError(
            f"the checkpoint names the tokenizer {str(name)[:80]!r}, which is no name of a model on the hub; "
            "say with --tokenizer which one to use"
        )
    return name


def convert(
    source: Path, out: Path, unseen: UnseenSizes, tokenizer: str = "", ema: bool = False
) -> ModelBundle:
    """Convert a published checkpoint to a model folder.

    Args:
        source: `checkpoint_*.pth` of pre-training or of a fine-tuned task.
        out: folder to write.
        unseen: sizes that the tensors do not show.
        tokenizer: folder or hub id; empty for the tokenizer that the checkpoint's configuration names.
        ema: whether to convert the exponential moving average of the weights.
    Raises:
        InputError, MissingFileError: see `read_published`, `config_of`, `from_published`, `tokenizer_for`.
    """
    check_model_output(out, [source])
    tensors, published = read_published(source, ema)
    check_free_space(out, sum(value.nbytes for value in tensors.values()), "the model")
    vocabulary = tokenizer_for(tokenizer, published)
    config = config_of(tensors, replace(unseen, image_size=None))
    model = _build(config, source)
    converted, unused = from_published(model, tensors, str(source))
    check_vocabulary(vocabulary, config.text.vocab_size, "the checkpoint")
    if unseen.image_size and (unseen.image_size,) * 2 != config.vision.image_hw:
        model = _build(config_of(tensors, unseen), source)
        converted = fit_positions(model, converted)
    load_tensors(model, converted, str(source))
    max_tokens, prompt = _text_settings(published)
    bundle = ModelBundle(model.eval(), vocabulary, max_tokens=max_tokens, prompt=prompt)
    save_model(bundle, out, {"published": published})
    count = sum(p.numel() for p in model.parameters()) / 1e6
    print(printable(f"{source.name}: {count:.1f} M parameters, can do {', '.join(config.heads)}"))
    for reason, number in Counter(unused.values()).items():
        print(f"  {number} tensors not needed: {reason}")
    return bundle


def _build(config: ModelConfig, source: Path) -> XVLM:
    """Build a model of the sizes in a checkpoint.  Raises InputError if there is no such model."""
    try:
        return build_model(config)
    except InputError:
        raise
    except Exception as error:  # timm raises many types for sizes that do not fit each other
        reason = describe_error(error)
        raise InputError(f"{source}: no model has the sizes of its tensors ({reason})") from error


def _text_settings(published: Mapping[str, Any]) -> tuple[int, str]:
    """Return the maximum length of texts and the captions' prompt in a checkpoint's configuration.

    Raises InputError if they are out of range or of another type.
    """
    max_tokens, prompt = published.get("max_tokens", 40), published.get("prompt", "")
    if type(max_tokens) is not int or not 2 < max_tokens <= 512 or not isinstance(prompt, str):
        raise InputError(
            f"the checkpoint's configuration has max_tokens {max_tokens!r} and prompt {prompt!r}; a whole "
            "number from 3 to 512 and a text are allowed"
        )
    return max_tokens, prompt


def convert_back(folder: str | Path, out: Path) -> Path:
    """Convert a model folder to a checkpoint in the published form.

    Raises InputError if the published code cannot represent the model.
    """
    model_folder = local_folder(folder)
    check_output_file(out, zipfile.is_zipfile, "PyTorch checkpoint", [folder, *model_folder.glob("*")])
    model = load_model(folder).model
    published = read_json(model_folder / "config.json").get("published", {})
    tensors = to_published(model)
    check_free_space(out.parent, sum(value.nbytes for value in tensors.values()), "the checkpoint")
    with atomic_file(out) as partial:
        save_tensors({"model": tensors} | ({"config": published} if published else {}), partial, out)
    return out


def save_tensors(content: Mapping[str, Any], path: Path, out: Path) -> None:
    """Save `content` to `path`.  Raises OutputError that names `out` if the disk is full."""
    try:
        torch.save(content, path)
    except RuntimeError as error:  # PyTorch's writer does not name the cause
        free = shutil.disk_usage(path.parent).free
        raise OutputError(f"{out} cannot be written, {free / 1e6:.1f} MB are free: {error}") from error
