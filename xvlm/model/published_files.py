"""Files of checkpoints from elsewhere: read without running code, and unwrapped.

Known forms: the published `{"model": tensors, "config": ...}`, Lightning's `state_dict`, DeepSpeed's
`module`, a bare dictionary of tensors, safetensors; names that begin with `module.` (DDP), `model.` and the
like; files from before PyTorch 1.6.  Everything in a file is somebody else's word: sizes are bounded by the
file's own.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xvlm.errors import InputError, MissingFileError

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that PyTorch wrote before version 1.6: a pickled magic number."""
ZIP_START = b"PK\x03\x04"

WEIGHTS = ("model", "state_dict", "module", "model_state_dict", "model_state", "net")
"""Under which names frameworks keep the tensors; the first that is there is taken."""
EMA = re.compile(r"(^|[._])ema([._]|$)|moving_average|averaged_model", re.IGNORECASE)
"""Names of running averages of the weights."""
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, wherever."""
TOWER = re.compile(r"^((?:[\w-]+\.)*?)(?:vision_encoder|text_encoder|text_decoder)\.")
"""What stands before the names of a published tensor."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by the published names.
        config: what the model was trained with, as plain JSON values; empty where the file does not say.
        said: what was taken and left, a sentence each.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    said: list[str] = field(default_factory=list)


def read_checkpoint(path: Path, ema: bool = False) -> Checkpoint:
    """The tensors of a checkpoint of any known form, unwrapped.

    Args:
        ema: take the running average of the weights that stands beside them.
    Raises:
        MissingFileError: no such file.
        InputError: it is damaged, no checkpoint, or holds more than tensors and plain values.
    """
    found = load(path)
    said: list[str] = []
    config: dict[str, Any] = {}
    taken: Any = found
    where = ""
    for _ in range(4):  # wrapped in each other
        if not isinstance(taken, Mapping):
            raise InputError(
                f"{path}{where} holds a {type(taken).__name__}; a checkpoint is a dictionary with 'model' in "
                "it"
            )
        if not config and isinstance(taken.get("config"), Mapping):
            config = plain(taken["config"], path)
        if taken and all(isinstance(value, Tensor) for value in taken.values()):
            break
        name = chosen(taken, ema, path)
        others = [key for key in taken if is_average(key) and isinstance(taken[key], Mapping) and key != name]
        if others:
            said.append(f"a running average of the weights stands beside as {others[0]!r}; --ema takes it")
        if name != "model":
            said.append(f"the weights under {name!r} were taken")
        taken, where, ema = taken[name], f"{where}[{name!r}]", ema and not is_average(name)
    else:
        raise InputError(f"{path} is no checkpoint: dictionaries in dictionaries, and no tensors")
    tensors = {checked_name(name, path): value for name, value in taken.items()}
    for name, value in tensors.items():
        check_tensor(name, value, path)
    return Checkpoint(with_ties(without_prefix(tensors, ema, path, said)), config, said)


def load(path: Path) -> Any:
    """What the file holds, whatever it is; nothing in it is run."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise MissingFileError(
            f"{path} is {what}; a published checkpoint is one file, such as checkpoint_9.pth"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not size:
        raise InputError(f"{path} is empty (0 bytes)")
    if path.suffix == ".safetensors" or (
        8 < int.from_bytes(start[:8], "little") < size and start[8:9] == b"{"
    ):
        return load_safetensors(path)
    is_zip = start.startswith(ZIP_START)
    if not is_zip and not start.startswith(LEGACY_START):
        raise InputError(
            f"{path} is no PyTorch checkpoint: it begins with {start[:8]!r}, neither as a zip nor as PyTorch "
            "before 1.6 nor as safetensors"
        )
    if is_zip:
        check_zip(path, size)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers, and reading that would run code from the "
            "file. If you trust it, open it once in Python with torch.load(..., weights_only=False) and save "
            "{'model': its state dict} with torch.save"
        ) from error
    except Exception as error:  # torch's reader raises whatever a damaged pickle leads to
        raise InputError(f"{path} is a damaged PyTorch checkpoint: {first_line(error)}") from error


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is a damaged safetensors file: {first_line(error)}") from error


def check_zip(path: Path, size: int) -> None:
    """Raise InputError for a zip that is cut off, is no checkpoint, or would grow when unpacked."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path} is damaged: it begins as a PyTorch checkpoint but has no readable end "
            f"({first_line(error)}; {size} bytes), as if it had not been copied whole"
        ) from error
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise InputError(f"{path} is a zip file but no PyTorch checkpoint: there is no data.pkl in it")
    if sum(entry.file_size for entry in entries) > size:
        raise InputError(
            f"{path} claims to hold more bytes than it has ({size}): it is compressed or damaged"
        )


def chosen(found: Mapping[Any, Any], ema: bool, path: Path) -> str:
    """Under which name the tensors stand.  Raises InputError if there is none."""
    inner = [name for name, value in found.items() if isinstance(name, str) and isinstance(value, Mapping)]
    averages = [name for name in inner if is_average(name)]
    if ema and averages:
        return averages[0]
    name = next((name for name in WEIGHTS if name in inner), None)
    if name is not None:
        return name
    shown = ", ".join(repr(str(key)[:40]) for key in list(found)[:5] if isinstance(key, str))
    raise InputError(
        f"{path} is no published checkpoint: neither itself nor what it holds under {', '.join(WEIGHTS)} is "
        f"a dictionary of tensors; it has {shown or 'nothing with a name'}"
    )


def is_average(name: Any) -> bool:
    """Whether a name says that it is a running average."""
    return isinstance(name, str) and bool(EMA.search(name))


def checked_name(name: Any, path: Path) -> str:
    """A tensor's name, without what wraps modules; raises InputError if it is no text."""
    if not isinstance(name, str) or len(name) > 500:
        raise InputError(
            f"{path} is no checkpoint: the names of its tensors must be texts of ordinary length"
        )
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def check_tensor(name: str, value: Tensor, path: Path) -> None:
    """Raise InputError for a tensor (...) that has not a finite number for each of its elements."""
    plain_kind = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    plain_kind = plain_kind and not value.is_complex()
    if not plain_kind or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path}: {name} is no ordinary tensor, with a value for each of its elements")
    if value.is_floating_point() and not value.isfinite().all():
        raise InputError(f"{path}: {name} holds numbers that are not finite; its training must have failed")


def without_prefix(tensors: dict[str, Tensor], ema: bool, path: Path, said: list[str]) -> dict[str, Tensor]:
    """The tensors (...) of the model, by names that begin with its parts'.

    Raises InputError where several models are in one file.
    """
    prefixes = dict.fromkeys(found[1] for name in tensors if (found := TOWER.match(name)))
    averages = [prefix for prefix in prefixes if is_average(prefix)]
    usual = [prefix for prefix in prefixes if prefix not in averages]
    if averages and usual and not ema:
        said.append(f"a running average of the weights stands beside as {averages[0]!r}; --ema takes it")
    wanted = averages if averages and (ema or not usual) else usual
    if ema and not averages:
        raise InputError(f"{path} holds no running average (EMA) of the weights")
    if len(wanted) > 1:
        raise InputError(f"{path} holds several models: names begin with {', '.join(map(repr, wanted[:4]))}")
    prefix = wanted[0] if wanted else ""
    if not prefix and not averages:
        return tensors
    kept = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if prefix:
        said.append(f"{prefix!r} was taken off the names of its tensors")
    if averages and prefix not in averages:
        kept = {name: value for name, value in kept.items() if not is_average(name)}
    left = len(tensors) - len(kept)
    if left:
        said.append(f"{left} tensors outside the model were left out")
    return kept


def with_ties(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors (...) with both names of those that stand in a model twice; safetensors keep one."""
    for tower in ("text_encoder", "text_decoder"):
        for head, stack in (("cls.predictions", "bert"), ("lm_head", "roberta")):
            table, tied = (
                f"{tower}.{stack}.embeddings.word_embeddings.weight",
                f"{tower}.{head}.decoder.weight",
            )
            for one, other in ((table, tied), (f"{tower}.{head}.bias", f"{tower}.{head}.decoder.bias")):
                if other in tensors and one not in tensors:
                    tensors = {one: tensors[other], **tensors}
    return tensors


def plain(config: Mapping[Any, Any], path: Path, most: int = 10_000) -> dict[str, Any]:
    """A configuration as plain JSON values.  Raises InputError for more than `most` values, or deep ones."""
    left = most

    def value_of(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 20:
            raise InputError(f"{path}: its 'config' is no configuration of a run: too large or too deep")
        if isinstance(value, Mapping):
            return {short(key): value_of(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [value_of(inner, depth + 1) for inner in value]
        if value is None or isinstance(value, bool | str):
            return value[:10_000] if isinstance(value, str) else value
        if isinstance(value, int) and abs(value) < 2**63:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        return type(value).__name__ if not isinstance(value, int | float) else str(value)[:100]

    found = value_of(config, 0)
    assert isinstance(found, dict)
    json.dumps(found, allow_nan=False)
    return found


def short(key: Any) -> str:
    """A key as text."""
    return str(key)[:200] if isinstance(key, str | int | float) else type(key).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
