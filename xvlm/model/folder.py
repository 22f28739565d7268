"""A trained model as a folder: `config.json`, `model.safetensors`, `tokenizer.json`.

Everything that is needed to predict is in it; a hub repository has the same form.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError, MissingFileError
from xvlm.model.sizes import check_sizes
from xvlm.model.xvlm import XVLM, ModelConfig, build_model
from xvlm.run import from_json, to_json
from xvlm.whole import whole_or_nothing

FORMAT = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class Loaded:
    """A model and the tokenizer that its vocabulary belongs to.

    Attributes:
        max_words, max_tokens: how long texts were when it was trained.
        prompt: what its captions begin with.
    """

    model: XVLM
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    prompt: str = ""


def save_model(loaded: Loaded, folder: str | Path, more: Mapping[str, Any] | None = None) -> Path:
    """Write the folder whole or not at all; an older one is replaced.  Raises OSError where it cannot be.

    `more` is kept in its `config.json` beside what is needed here.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    config = {
        "format": FORMAT,
        "max_words": loaded.max_words,
        "max_tokens": loaded.max_tokens,
        "prompt": loaded.prompt,
        "model": to_json(loaded.model.config),
        **(more or {}),
    }
    tensors = {name: value.contiguous() for name, value in loaded.model.state_dict().items()}
    with whole_or_nothing(partial):
        (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        loaded.tokenizer.save(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    return folder


def load_model(folder_or_repo: str | Path) -> Loaded:
    """Read a model folder, that of a run, or a hub repository of the same form; in evaluation mode.

    Raises:
        FileNotFoundError: neither a folder nor a repository, or a file is missing from it.
        InputError: the folder was written by a later version.
        RuntimeError: tensors do not fit the configuration.
    """
    folder = local_folder(folder_or_repo)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(f"{folder} is no model folder: {', '.join(missing)} not in it")
    config = json.loads((folder / "config.json").read_text())
    if config.get("format") != FORMAT:
        raise InputError(
            f"{folder}/config.json has format {config.get('format')}; this version reads {FORMAT}"
        )
    model_config = from_json(ModelConfig, config["model"])
    check_sizes(model_config, folder / "model.safetensors")
    model = build_model(model_config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    tokenizer = Tokenizer.from_folder(folder)
    lengths = config["max_words"], config["max_tokens"]
    return Loaded(model.eval(), tokenizer, *lengths, config.get("prompt", ""))


def push_to_hub(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload a model folder as a hub repository; returns its address.  Needs a token of the hub's."""
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(folder_path=str(folder), repo_id=repo, allow_patterns=list(FILES)))


def local_folder(folder_or_repo: str | Path) -> Path:
    """The folder itself, `model/` in a run's folder, or a copy of the hub's.

    Raises FileNotFoundError if it is none of these.
    """
    folder = Path(folder_or_repo)
    if folder.is_dir():
        return folder / "model" if (folder / "model").is_dir() else folder
    try:
        return Path(snapshot_download(str(folder_or_repo), allow_patterns=list(FILES)))
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise MissingFileError(
            f"{folder_or_repo} is neither a folder here nor a hub repository: {error}"
        ) from error
