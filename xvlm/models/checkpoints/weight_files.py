"""Find and read files of pre-trained weights; no code in them is run."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from xvlm.common.errors import InputError, MissingFileError
from xvlm.models.checkpoints.hub import download

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

KNOWN_BERTS = (
    *("bert-base-uncased", "bert-large-uncased", "google-bert/bert-base-uncased"),
    *("google-bert/bert-large-uncased", "roberta-base", "roberta-large"),
    *("FacebookAI/roberta-base", "FacebookAI/roberta-large"),
)
"""Hub ids that a file may name."""


def find_weights(spec: str, trusted: bool = True) -> Path:
    """Return the folder or file that `spec` names.

    Args:
        spec: a path, `python:PACKAGE` for weights in an installed package, or a hub id.  The package is not
            imported.
        trusted: whether the user or a recipe named it.  A file may only name one of `KNOWN_BERTS`, or a
            folder below the working directory.
    Raises:
        MissingFileError: it is none of these.
        InputError: it is not trusted and not one of those that a file may name.
    """
    if not trusted and not _file_may_name(spec):
        raise InputError(
            f"a file names {spec[:200]!r}; files may only name {', '.join(KNOWN_BERTS)} or a folder below "
            "this one.  If you trust it, type the name yourself"
        )
    if spec.startswith("python:"):
        name = spec.removeprefix("python:")
        if not name.isidentifier():  # to find a.b, Python would import a
            raise InputError(f"{spec!r} must name a package by one word, such as python:package")
        package = importlib.util.find_spec(name)
        if package is None or not package.submodule_search_locations:
            raise MissingFileError(
                f"the Python package {name} is not installed; `make photos-deps` installs it"
            )
        return Path(package.submodule_search_locations[0])
    if Path(spec).exists():
        return Path(spec)
    return download(spec, ["*.json", "*.txt", "*.safetensors", "pytorch_model.bin"])


def _file_may_name(spec: str) -> bool:
    path = Path(spec)
    below = not path.is_absolute() and path.is_dir() and path.resolve().is_relative_to(Path.cwd())
    return spec in KNOWN_BERTS or below


def bert_folder(spec: str, trusted: bool = True) -> Path:
    """Return the folder with `config.json` that `spec` names; arguments and errors as in `find_weights`."""
    folder = find_weights(spec, trusted)
    if (folder / "config.json").is_file():
        return folder
    inner = [path.parent for path in folder.glob("*/config.json")]
    if len(inner) != 1:
        raise MissingFileError(f"{folder} holds no config.json of a BERT or RoBERTa")
    return inner[0]


def find_tensor_file(path: Path) -> Path:
    """Return the file itself, or the only file of tensors below a folder; safetensors are preferred.

    Raises MissingFileError if there is none or more than one, or if it is a device or a pipe.
    """
    if not path.is_dir():
        if not path.is_file():
            raise MissingFileError(f"{path} is no file of tensors")
        return path
    files = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
    files = [file for file in files if file.suffix == ".safetensors"] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise MissingFileError(
            f"{path} must hold exactly one file of tensors ({', '.join(SUFFIXES)}); found {names}"
        )
    return files[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file, or in the only such file below a folder.

    Raises InputError if the file is damaged or holds anything else than a dictionary of tensors.
    """
    path = find_tensor_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers, or is damaged; it is read with "
            "weights_only, so that nothing in it is run"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises almost any type
        raise InputError(f"{path} is no file of tensors, or a damaged one: {str(error)[:500]}") from error
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise InputError(f"{path} holds a {type(content).__name__} that is no dictionary of tensors by name")
    return dict(content)
