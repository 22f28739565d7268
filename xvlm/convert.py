"""`xvlm convert`: a checkpoint of the published X-VLM into a model folder of ours, and back."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError, MissingFileError
from xvlm.jsonfile import read_json
from xvlm.model.folder import Loaded, load_model, local_folder, save_model
from xvlm.model.published import from_published, to_published
from xvlm.model.published_sizes import Unseen, config_of
from xvlm.model.resize import fit_positions
from xvlm.model.weights import bert_folder, put
from xvlm.model.xvlm import build_model
from xvlm.train.start import say


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors, and the configuration it was trained with (empty where it has none).

    Raises:
        FileNotFoundError: no such file.
        InputError: it is no PyTorch file, holds no tensors, or holds more than tensors and plain containers.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is no file; a published checkpoint is one, such as checkpoint_9.pth")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers, and reading that would run code from the "
            "file. If you trust it, open it once in Python with torch.load(..., weights_only=False) and save "
            "{'model': its state dict} with torch.save"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise InputError(f"{path} is no PyTorch checkpoint, or a damaged one: {error}") from error
    if not isinstance(found, Mapping):
        raise InputError(
            f"{path} holds a {type(found).__name__}; a checkpoint is a dictionary with 'model' in it"
        )
    tensors = found.get("model", found)
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others or not tensors:
        raise InputError(
            f"{path} is no published checkpoint: neither its 'model' nor itself is a dictionary of tensors"
            + (f" ({others[0]!r} is none)" if others else "")
        )
    config = found.get("config", {}) if tensors is not found else {}
    return dict(tensors), dict(config) if isinstance(config, Mapping) else {}


def tokenizer_for(spec: str, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that is named, or the one beside the weights that the checkpoint began with.

    Raises FileNotFoundError naming the option if there is none.
    """
    spec = spec or str(config.get("text_encoder", ""))
    try:
        if not spec:
            raise MissingFileError("the checkpoint does not say which tokenizer it was trained with")
        return Tokenizer.from_folder(Path(spec) if Path(spec).is_dir() else bert_folder(spec))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no tokenizer: {error}. Say where it is with --tokenizer: a folder with tokenizer.json or "
            "vocab.txt, or a hub id (the published models use bert-base-uncased and roberta-base)"
        ) from error


def convert(source: Path, out: Path, unseen: Unseen, tokenizer: str = "") -> Loaded:
    """A published checkpoint -> a model folder of ours.

    Args:
        source: `checkpoint_*.pth` of any kind: pre-training or a fine-tuned task.
        out: folder to write.
        unseen: sizes that the tensors do not show.
        tokenizer: folder or hub id; empty: as the checkpoint's configuration says.
    Raises:
        InputError, MissingFileError: see `read_published`, `config_of`, `from_published`, `tokenizer_for`.
    """
    tensors, published = read_published(source)
    vocabulary = tokenizer_for(tokenizer, published)
    config = config_of(tensors, replace(unseen, image_size=None))
    model = build_model(config)
    taken = from_published(model, tensors, str(source))
    if vocabulary.vocab_size > config.text.vocab_size:
        raise InputError(
            f"the tokenizer has {vocabulary.vocab_size} tokens, the checkpoint's embeddings "
            f"{config.text.vocab_size}: this is another model's tokenizer"
        )
    given: Mapping[str, Tensor] = taken.given
    if unseen.image_size and (unseen.image_size,) * 2 != config.vision.image_hw:
        model = build_model(config_of(tensors, unseen))
        given = fit_positions(model, given)
    put(model, given, str(source))
    longest, prompt = int(published.get("max_tokens", 40)), str(published.get("prompt", ""))
    loaded = Loaded(model.eval(), vocabulary, max_tokens=longest, prompt=prompt)
    save_model(loaded, out, {"published": json.loads(json.dumps(published, default=str))})
    number = sum(p.numel() for p in model.parameters()) / 1e6
    say(f"{source.name}: {number:.1f} M parameters, can do {', '.join(config.parts)}")
    for why, count in Counter(taken.unused.values()).items():
        say(f"  {count} tensors not needed: {why}")
    return loaded


def convert_back(folder: str | Path, out: Path) -> Path:
    """A model folder of ours -> a checkpoint as the published code saves it.

    Raises InputError for a model that the published code cannot hold.
    """
    loaded = load_model(folder)
    kept = read_json(local_folder(folder) / "config.json").get("published", {})
    tensors = to_published(loaded.model)
    whole = {"model": tensors, "config": kept} if kept else {"model": tensors}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    torch.save(whole, partial)
    partial.replace(out)
    return out
