"""`xvlm convert`: a checkpoint of the published X-VLM into a model folder of ours, and back."""

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

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError, MissingFileError, OutputError
from xvlm.jsonfile import read_json
from xvlm.model.folder import Loaded, check_model_output, load_model, local_folder, save_model
from xvlm.model.published import from_published, to_published
from xvlm.model.published_files import first_line, read_checkpoint
from xvlm.model.published_sizes import Unseen, config_of
from xvlm.model.resize import fit_positions
from xvlm.model.vocabulary import KNOWN, check_vocabulary
from xvlm.model.weights import bert_folder, put
from xvlm.model.xvlm import XVLM, ModelConfig, build_model
from xvlm.outputs import check_output_file, check_room
from xvlm.terminal import notice
from xvlm.train.start import say
from xvlm.whole import whole_file


def read_published(path: Path, ema: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors, and the configuration it was trained with (empty where it has none); what was
    taken is said on stderr.  See `read_checkpoint`."""
    found = read_checkpoint(path, ema)
    for sentence in found.said:
        notice(f"{path.name}: {sentence}")
    return found.tensors, found.config


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def tokenizer_for(spec: str, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that is named, or the one beside the weights that the checkpoint began with.

    What the checkpoint names is somebody else's word: it may be the name of a model on the hub, and nothing
    that leads elsewhere.

    Raises MissingFileError naming the option if there is none.
    """
    try:
        if not spec:
            spec = named_in(config)
        return Tokenizer.from_folder(Path(spec) if Path(spec).is_dir() else bert_folder(spec))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no tokenizer: {error}. Say where it is with --tokenizer: a folder with tokenizer.json or "
            "vocab.txt, or a hub id (the published models use bert-base-uncased and roberta-base)"
        ) from error


def named_in(config: Mapping[str, Any]) -> str:
    """The text model that a checkpoint's configuration names; the published ones by their last name.

    Raises MissingFileError if it names none, InputError for a name that could be anything but a model's.
    """
    name = config.get("text_encoder", "")
    if not name:
        raise MissingFileError("the checkpoint does not say which tokenizer it was trained with")
    last = str(name).rstrip("/").rpartition("/")[2]
    known = next((one.name for one in KNOWN if one.name == last), None)
    if known is not None:  # published configurations say data/bert-base-uncased
        return known
    if not isinstance(name, str) or not HUB_ID.fullmatch(name) or ".." in name:
        raise InputError(
            f"the checkpoint names the tokenizer {str(name)[:80]!r}, which is no name of a model on the hub; "
            "say with --tokenizer which one to use"
        )
    return name


def convert(source: Path, out: Path, unseen: Unseen, tokenizer: str = "", ema: bool = False) -> Loaded:
    """A published checkpoint -> a model folder of ours.

    Args:
        source: `checkpoint_*.pth` of any kind: pre-training or a fine-tuned task.
        out: folder to write.
        unseen: sizes that the tensors do not show.
        tokenizer: folder or hub id; empty: as the checkpoint's configuration says.
        ema: take the running average of the weights that stands beside them.
    Raises:
        InputError, MissingFileError: see `read_published`, `config_of`, `from_published`, `tokenizer_for`.
    """
    check_model_output(out, [source])
    tensors, published = read_published(source, ema)
    check_room(out, sum(value.nbytes for value in tensors.values()), "the model")
    vocabulary = tokenizer_for(tokenizer, published)
    config = config_of(tensors, replace(unseen, image_size=None))
    model = built(config, source)
    taken = from_published(model, tensors, str(source))
    check_vocabulary(vocabulary, config.text.vocab_size, "the checkpoint")
    given: Mapping[str, Tensor] = taken.given
    if unseen.image_size and (unseen.image_size,) * 2 != config.vision.image_hw:
        model = built(config_of(tensors, unseen), source)
        given = fit_positions(model, given)
    put(model, given, str(source))
    longest, prompt = lengths_of(published)
    loaded = Loaded(model.eval(), vocabulary, max_tokens=longest, prompt=prompt)
    save_model(loaded, out, {"published": published})
    number = sum(p.numel() for p in model.parameters()) / 1e6
    say(f"{source.name}: {number:.1f} M parameters, can do {', '.join(config.parts)}")
    for why, count in Counter(taken.unused.values()).items():
        say(f"  {count} tensors not needed: {why}")
    return loaded


def built(config: ModelConfig, source: Path) -> XVLM:
    """A model of the sizes that a checkpoint's tensors show.  Raises InputError where there is none such."""
    try:
        return build_model(config)
    except InputError:
        raise
    except Exception as error:  # timm says in many ways that sizes do not go together
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{source}: no model has the sizes of its tensors ({reason})") from error


def lengths_of(published: Mapping[str, Any]) -> tuple[int, str]:
    """How long texts were, and what captions begin with, by the checkpoint's configuration.

    Raises InputError for values that cannot be.
    """
    longest, prompt = published.get("max_tokens", 40), published.get("prompt", "")
    if type(longest) is not int or not 2 < longest <= 512 or not isinstance(prompt, str):
        raise InputError(
            f"the checkpoint's configuration has max_tokens {longest!r} and prompt {prompt!r}; a whole "
            "number from 3 to 512 and a text are allowed"
        )
    return longest, prompt


def convert_back(folder: str | Path, out: Path) -> Path:
    """A model folder of ours -> a checkpoint as the published code saves it.

    Raises InputError for a model that the published code cannot hold.
    """
    place = local_folder(folder)
    check_output_file(out, zipfile.is_zipfile, "PyTorch checkpoint", [folder, *place.glob("*")])
    loaded = load_model(folder)
    kept = read_json(place / "config.json").get("published", {})
    tensors = to_published(loaded.model)
    check_room(out.parent, sum(value.nbytes for value in tensors.values()), "the checkpoint")
    whole = {"model": tensors, "config": kept} if kept else {"model": tensors}
    with whole_file(out) as partial:
        save_tensors(whole, partial, out)
    return out


def save_tensors(whole: Mapping[str, Any], path: Path, out: Path) -> None:
    """`torch.save` to `path`; a full disk raises OutputError that names `out`."""
    try:
        torch.save(whole, path)
    except RuntimeError as error:  # PyTorch's writer does not say why
        free = shutil.disk_usage(path.parent).free
        raise OutputError(f"{out} cannot be written, {free / 1e6:.1f} MB are free: {error}") from error
