"""A trained model as a folder: `config.json`, `model.safetensors`, `tokenizer.json`.

Everything that is needed to predict is in it; a hub repository has the same form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError, MissingFileError, OutputError, WeightsError, XVLMError
from xvlm.jsonfile import read_json
from xvlm.model.fit import misfit
from xvlm.model.sizes import check_sizes
from xvlm.model.xvlm import XVLM, ModelConfig, build_model
from xvlm.outputs import check_apart, check_room, check_writable
from xvlm.run import from_json, to_json
from xvlm.whole import standing, whole_folder

T = TypeVar("T")

FORMAT = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json")
MEASURED = "measured.json"
"""Beside the files of a model that was kept because it was measured best."""
READ_AGAIN = 20
"""Times that a folder may be replaced while it is read."""


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


def save_model(
    loaded: Loaded,
    folder: str | Path,
    more: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Path:
    """Write the folder whole or not at all; an older model folder of ours is replaced, nothing else.

    Whoever reads at any moment finds the old one or the new one.

    Args:
        more: kept in its `config.json` beside what is needed here.
        measured: written beside it as `measured.json`.
    Raises:
        OutputError: it cannot be written, or `folder` holds something else; see `check_model_output`.
    """
    folder = Path(folder)
    check_model_output(folder)
    config = {
        "format": FORMAT,
        "max_words": loaded.max_words,
        "max_tokens": loaded.max_tokens,
        "prompt": loaded.prompt,
        "model": to_json(loaded.model.config),
        **(more or {}),
    }
    tensors = {name: value.contiguous() for name, value in loaded.model.state_dict().items()}
    with whole_folder(folder, (*FILES, MEASURED)) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        loaded.tokenizer.save(partial)
        if measured is not None:
            (partial / MEASURED).write_text(json.dumps(measured, indent=1) + "\n")
    return folder


def check_model_output(folder: Path, inputs: Iterable[str | Path] = (), needed_bytes: int = 0) -> None:
    """A model can be written to `folder`: it is new or empty, or a model folder of ours and nothing else.

    Args:
        inputs: what the model is made from; none of them may be in the folder.
        needed_bytes: that the model takes, where that is known.
    Raises:
        OutputError: it is something else, holds an input or the working folder, or cannot be written.
    """
    check_apart(folder, inputs)
    check_writable(folder.parent)
    check_room(folder, needed_bytes, "the model")
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"no folder"}
    if not names:
        return
    others = sorted(names - {*FILES, MEASURED})
    others += sorted(name for name in names if not (folder / name).is_file() or (folder / name).is_symlink())
    missing = sorted(set(FILES) - names)
    if others or missing or not _is_ours(folder):
        found = f"it holds {', '.join(dict.fromkeys(others))}" if others else "config.json is not ours"
        found = f"it lacks {', '.join(missing)}" if missing and not others else found
        raise OutputError(
            f"{folder} is there already and is not a model folder of xvlm alone ({found}), so it is not "
            "replaced; name another folder"
        )


def _is_ours(folder: Path) -> bool:
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return {"format", "model", "max_words", "max_tokens"} <= config.keys()


def load_model(folder_or_repo: str | Path) -> Loaded:
    """Read a model folder, that of a run, or a hub repository of the same form; in evaluation mode.

    Raises:
        MissingFileError: neither a folder nor a repository, or a file is missing from it.
        InputError: a file is damaged, does not fit the others, or was written by a later version.
    """
    for _ in range(READ_AGAIN):
        folder = local_folder(folder_or_repo)
        before = _identity(folder)
        try:
            loaded = _read(folder)
        except XVLMError:
            if _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return loaded
    raise InputError(f"{folder_or_repo} is replaced faster than it can be read")


def _identity(folder: Path) -> tuple[int, int]:
    """Another one once the folder was replaced."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_ctime_ns


def _read(folder: Path) -> Loaded:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(f"{folder} is no model folder: {', '.join(missing)} not in it")
    config = _read_config(folder / "config.json")
    tokenizer = _read_part(folder / "tokenizer.json", lambda: Tokenizer.from_folder(folder))
    weights = folder / "model.safetensors"
    tensors = _read_part(weights, lambda: load_file(weights))
    described = _read_part(folder / "config.json", lambda: from_json(ModelConfig, config["model"]))
    if tokenizer.vocab_size > described.text.vocab_size:
        raise InputError(
            f"{folder}/tokenizer.json has {tokenizer.vocab_size} tokens, the model embeds "
            f"{described.text.vocab_size}: it is another model's"
        )
    _read_part(folder / "config.json", lambda: check_sizes(described, weights))
    model = _read_part(folder / "config.json", lambda: build_model(described))
    if found := misfit(model.state_dict(), tensors):
        raise WeightsError(f"{weights} does not fit config.json: it {found}")
    model.load_state_dict(tensors)
    lengths = config["max_words"], config["max_tokens"]
    return Loaded(model.eval(), tokenizer, *lengths, config.get("prompt", ""))


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(path)
    if config.get("format") != FORMAT:
        raise InputError(f"{path} has format {config.get('format')!r:.40}; this version reads {FORMAT}")
    wanted = {"max_words": int, "max_tokens": int, "model": dict, "prompt": str}
    for name, kind in wanted.items():
        value = config.get(name, "" if name == "prompt" else None)
        if type(value) is not kind or (isinstance(value, int) and value < 1):
            raise InputError(f"{path}: {name} is {value!r:.40}; it must be {_WANTED[kind]}")
    return config


_WANTED = {int: "a whole number from 1", dict: "an object", str: "text"}


def _read_part(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives; whatever else it raises becomes an InputError that names the file."""
    try:
        return read()
    except XVLMError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # foreign parsers and timm's constructors raise anything
        said = " ".join(str(error).split())
        raise InputError(f"{path} is damaged, or not ours: {type(error).__name__}: {said:.300}") from error


def push_to_hub(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload a model folder as a hub repository; returns its address.  Needs a token of the hub's."""
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(folder_path=str(folder), repo_id=repo, allow_patterns=list(FILES)))


def local_folder(folder_or_repo: str | Path) -> Path:
    """The folder itself, `model/` in a run's folder, or a copy of the hub's.

    Raises FileNotFoundError if it is none of these.
    """
    folder = standing(Path(folder_or_repo))
    if folder.is_dir():
        of_run = standing(folder / "model")
        return of_run if of_run.is_dir() else folder
    try:
        return Path(snapshot_download(str(folder_or_repo), allow_patterns=list(FILES)))
    except (HFValidationError, RepositoryNotFoundError, OSError) as error:
        raise MissingFileError(
            f"{folder_or_repo} is neither a folder here nor a hub repository: {error}"
        ) from error
