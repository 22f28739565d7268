"""`index.json`: by which model, and which windows, the vectors of an index were made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from xvlm.common.errors import InputError, MissingFileError, XVLMError
from xvlm.common.json_file import json_text, read_json, write_json
from xvlm.config import from_json
from xvlm.models.xvlm import XVLM

FORMAT = 1
FILE = "index.json"


@dataclass(frozen=True)
class Manifest:
    """What all vectors of an index have in common.

    Attributes:
        model: folder or hub repository of the model; a folder is stored as an absolute path.
        fingerprint: fingerprint of the model; see `fingerprint`.
        embed_dim: length of the vectors.
        levels: windows a side, of each level of the pyramid.
        format: version of this file.
    """

    model: str
    fingerprint: str
    embed_dim: int
    levels: tuple[int, ...]
    format: int = FORMAT


def fingerprint(model: XVLM) -> str:
    """Return a hash of the model's weights, configuration and image size: of all that vectors depend on."""
    digest = hashlib.blake2b(json_text(model.config).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `index.json` into an index."""
    write_json(folder / FILE, manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read `index.json`.  Raises MissingFileError if there is none, InputError if it is not xvlm's."""
    path = folder / FILE
    if not path.is_file():
        raise MissingFileError(f"{folder} is no index: {FILE} is missing; `xvlm index` makes one")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise InputError(f"{path} has format {values.get('format')!r:.40}; this version reads {FORMAT}")
    try:
        return from_json(Manifest, values)
    except XVLMError as error:
        raise InputError(f"{path}: {error}") from error


def model_name(folder_or_repo: str | Path) -> str:
    """Return the name by which a model is found again: an absolute path, or a hub repository."""
    path = Path(folder_or_repo)
    return str(path.absolute()) if path.exists() else str(folder_or_repo)
