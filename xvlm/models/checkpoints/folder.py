"""Write and read model folders: `config.json`, `model.safetensors`, `tokenizer.json`.

A model folder is all that prediction needs; a hub repository has the same files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file

from xvlm import registry
from xvlm.common.atomic import atomic_folder, current_folder
from xvlm.common.errors import InputError, MissingFileError, OutputError, WeightsError, XVLMError
from xvlm.common.json_file import json_text, read_json, write_text
from xvlm.common.outputs import check_free_space, check_separate, check_writable
from xvlm.common.renames import renamed_model, renamed_tensors
from xvlm.config import from_json
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.calibration import Calibration
from xvlm.models.checkpoints.hub import download
from xvlm.models.checkpoints.mismatch import describe_mismatch
from xvlm.models.checkpoints.size_check import check_sizes
from xvlm.models.xvlm import XVLM, ModelConfig, build_model

T = TypeVar("T")

FORMAT = 1
FILES = ("config.json", "model.safetensors", "tokenizer.json")
MEASURED = "measured.json"
"""Metrics of a model that was saved because it was the best so far; the only optional file."""
MAX_READS = 20
"""Maximum number of attempts to read a folder that is replaced meanwhile."""


@dataclass(frozen=True)
class ModelBundle:
    """A model and its tokenizer.

    Attributes:
        max_words, max_tokens: maximum length of texts in training.
        prompt: prefix of its captions.
        matching_weight, phrase_weight: weights of the matching log-odds and of the score of a caption's
            phrases where they are added to contrastive scores.
        calibration: how its scores become probabilities.
    """

    model: XVLM
    tokenizer: Tokenizer
    max_words: int = 40
    max_tokens: int = 40
    prompt: str = ""
    matching_weight: float = 1.0
    phrase_weight: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)


def save_model(
    bundle: ModelBundle,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder atomically; an older model folder is replaced, and nothing else.

    Args:
        extra: additional entries of `config.json`.
        measured: content of `measured.json`.
    Raises:
        OutputError: it cannot be written, or `folder` holds something else; see `check_model_output`.
    """
    folder = Path(folder)
    check_model_output(folder)
    config = {
        "format": FORMAT,
        "max_words": bundle.max_words,
        "max_tokens": bundle.max_tokens,
        "prompt": bundle.prompt,
        "matching_weight": bundle.matching_weight,
        "phrase_weight": bundle.phrase_weight,
        "calibration": bundle.calibration,
        "model": bundle.model.config,
        **(extra or {}),
    }
    tensors = {name: value.contiguous() for name, value in bundle.model.state_dict().items()}
    with atomic_folder(folder, (*FILES, MEASURED)) as partial:
        (partial / "config.json").write_text(json_text(config, indent=1) + "\n")
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        bundle.tokenizer.save(partial)
        if measured is not None:
            (partial / MEASURED).write_text(json_text(measured, indent=1) + "\n")
    return folder


def set_score_weights(folder_or_run: str | Path, matching: float, phrases: float) -> None:
    """Write the weights of both scores into a model folder, or into that of a run; its other content stays.

    Raises MissingFileError if there is no model folder, OutputError if it cannot be written.
    """
    _update_config(folder_or_run, {"matching_weight": matching, "phrase_weight": phrases})


def set_calibration(folder_or_run: str | Path, calibration: Calibration) -> None:
    """Write a calibration into a model folder, or into that of a run; its other content stays.

    Raises MissingFileError if there is no model folder, OutputError if it cannot be written.
    """
    _update_config(folder_or_run, {"calibration": calibration})


def _update_config(folder_or_run: str | Path, entries: Mapping[str, Any]) -> None:
    path = local_folder(folder_or_run) / "config.json"
    write_text(path, json_text({**_read_config(path), **entries}, indent=1) + "\n")


def check_model_output(folder: Path, inputs: Iterable[str | Path] = (), needed_bytes: int = 0) -> None:
    """Check that a model can be written to `folder`: it is new, empty, or a model folder of xvlm.

    Args:
        inputs: files and folders that the model is made from; none may be inside the folder.
        needed_bytes: size of the model, if known.
    Raises:
        OutputError: it is something else, holds an input or the working directory, or cannot be written.
    """
    check_separate(folder, inputs)
    check_writable(folder.parent)
    check_free_space(folder, needed_bytes, "the model")
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"no folder"}
    if not names:
        return
    others = sorted(names - {*FILES, MEASURED})
    others += sorted(name for name in names if not (folder / name).is_file() or (folder / name).is_symlink())
    missing = sorted(set(FILES) - names)
    if others:
        reason = f"it holds {', '.join(dict.fromkeys(others))}"
    elif missing:
        reason = f"it lacks {', '.join(missing)}"
    elif not _is_model_config(folder / "config.json"):
        reason = "config.json is not xvlm's"
    else:
        return
    raise OutputError(
        f"{folder} is there already and is not a model folder of xvlm alone ({reason}), so it is not "
        "replaced; name another folder"
    )


def _is_model_config(path: Path) -> bool:
    try:
        config = read_json(path)
    except (OSError, ValueError):
        return False
    return {"format", "model", "max_words", "max_tokens"} <= config.keys()


def load_model(folder_or_repo: str | Path) -> ModelBundle:
    """Read a model folder, a run's folder, or a hub repository, into evaluation mode.

    Raises:
        MissingFileError: it is neither a folder nor a repository, or lacks a file.
        InputError: a file is damaged, does not fit the others, or was written by a later version.
    """
    for _ in range(MAX_READS):
        folder = local_folder(folder_or_repo)
        before = _identity(folder)
        try:
            bundle = _read(folder)
        except XVLMError:
            if _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return bundle
    raise InputError(f"{folder_or_repo} is replaced faster than it can be read")


def load_model_config(folder_or_repo: str | Path) -> ModelConfig:
    """Read the configuration of a model folder, without its weights; errors as in `load_model`."""
    path = local_folder(folder_or_repo) / "config.json"
    if not path.is_file():
        raise MissingFileError(f"{path.parent} is no model folder: config.json is missing")
    return _name_file(path, lambda: from_json(ModelConfig, renamed_model(_read_config(path)["model"])))


def _identity(folder: Path) -> tuple[int, int]:
    """Return a value that differs once the folder was replaced."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_ctime_ns


def _read(folder: Path) -> ModelBundle:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(f"{folder} is no model folder: {', '.join(missing)} not in it")
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = _read_config(path)
    tokenizer = _name_file(folder / "tokenizer.json", lambda: Tokenizer.from_folder(folder))
    tensors = _name_file(weights, lambda: load_file(weights))
    if "parts" in config["model"]:
        config["model"], tensors = renamed_model(config["model"]), renamed_tensors(tensors)
    model_config = _name_file(path, lambda: from_json(ModelConfig, config["model"]))
    if tokenizer.vocab_size > model_config.text.vocab_size:
        raise InputError(
            f"{folder}/tokenizer.json has {tokenizer.vocab_size} tokens, the model embeds "
            f"{model_config.text.vocab_size}: it is another model's"
        )
    _name_file(path, lambda: check_sizes(model_config, weights))
    model = _name_file(path, lambda: build_model(model_config))
    if difference := describe_mismatch(model.state_dict(), tensors):
        raise WeightsError(f"{weights} does not fit config.json: it {difference}")
    model.load_state_dict(tensors)
    return ModelBundle(
        model.eval(),
        tokenizer,
        config["max_words"],
        config["max_tokens"],
        config.get("prompt", ""),
        **{name: config.get(name, weight) for name, weight in SCORE_WEIGHTS.items()},
        calibration=_name_file(path, lambda: from_json(Calibration, config.get("calibration", {}))),
    )


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(path)
    if config.get("format") != FORMAT:
        raise InputError(f"{path} has format {config.get('format')!r:.40}; this version reads {FORMAT}")
    types = {"max_words": int, "max_tokens": int, "model": dict, "prompt": str}
    for name, kind in types.items():
        value = config.get(name, "" if name == "prompt" else None)
        if type(value) is not kind or (isinstance(value, int) and value < 1):
            raise InputError(f"{path}: {name} is {value!r:.40}; it must be {_ALLOWED[kind]}")
    for name, default in SCORE_WEIGHTS.items():
        weight = config.get(name, default)
        if type(weight) not in (int, float) or not 0 <= weight < math.inf:
            raise InputError(f"{path}: {name} is {weight!r:.40}; it must be a number from 0")
    vision = config["model"].get("vision")
    encoder = vision.get("name") if isinstance(vision, dict) else None
    if isinstance(encoder, str) and encoder.endswith(".py") and not registry.is_loaded(encoder):
        raise InputError(
            f"{path} names the Python file {encoder!r} as image encoder, which is not run because a file "
            f"names it; if you trust it, load it first: xvlm.registry.load_file({encoder!r})"
        )
    return config


SCORE_WEIGHTS = {"matching_weight": 1.0, "phrase_weight": 0.0}
"""Weights of scores in `config.json`, and what they are where it does not name them."""
_ALLOWED = {int: "a whole number from 1", dict: "an object", str: "text"}


def _name_file(path: Path, read: Callable[[], T]) -> T:
    """Call `read`; any exception without the name of the file becomes an InputError that names it."""
    try:
        return read()
    except XVLMError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # foreign parsers and timm's constructors raise anything
        message = " ".join(str(error).split())
        raise InputError(
            f"{path} is damaged, or not xvlm's: {type(error).__name__}: {message:.300}"
        ) from error


def local_folder(folder_or_repo: str | Path) -> Path:
    """Return the model folder itself, the folder `model` of a run, or a local copy of a hub repository.

    Args:
        folder_or_repo: a folder, or a repository as for `hub.download`: ORGANISATION/NAME@REVISION.
    Raises:
        MissingFileError: it is none of these.
    """
    folder = current_folder(Path(folder_or_repo))
    if folder.is_dir():
        model = current_folder(folder / "model")
        return model if model.is_dir() else folder
    return download(str(folder_or_repo), FILES)
