"""Read checkpoints that other frameworks wrote, without running code, and unwrap their state dicts.

Known forms are the published `{"model": state dict, "config": ...}`, Lightning's `state_dict`, DeepSpeed's
`module`, a bare state dict, safetensors, keys with prefixes such as `module.` (DDP) or `model.`, and files
from before PyTorch 1.6.  Files are not trusted: what they claim is bounded by their own size.
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

from xvlm.common.errors import InputError, MissingFileError, first_line

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files from before PyTorch 1.6: a pickled magic number."""
ZIP_START = b"PK\x03\x04"

WEIGHTS = ("model", "state_dict", "module", "model_state_dict", "model_state", "net")
"""Keys under which frameworks store the state dict, in order of preference."""
EMA = re.compile(r"(^|[._])ema([._]|$)|moving_average|averaged_model", re.IGNORECASE)
"""Names of exponential moving averages of the weights."""
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing insert anywhere in keys."""
TOWER = re.compile(r"^((?:[\w-]+\.)*?)(?:vision_encoder|text_encoder|text_decoder)\.")
"""Prefix of a published key."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: state dict under the published keys.
        config: configuration of its training, as plain JSON values; empty if the file has none.
        notes: sentences about what was used and left out.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_checkpoint(path: Path, ema: bool = False) -> Checkpoint:
    """Read a checkpoint of any known form.

    Args:
        ema: whether to read the exponential moving average of the weights instead of the weights.
    Raises:
        MissingFileError: the file does not exist.
        InputError: it is damaged, not a checkpoint, or holds more than tensors and plain values.
    """
    content = _load(path)
    notes: list[str] = []
    config: dict[str, Any] = {}
    where = ""
    for _ in range(4):  # maximum depth of nested dictionaries
        if not isinstance(content, Mapping):
            raise InputError(
                f"{path}{where} holds a {type(content).__name__}; a checkpoint is a dictionary with the key "
                "'model'"
            )
        if not config and isinstance(content.get("config"), Mapping):
            config = _plain_config(content["config"], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            break
        name = _weights_key(content, ema, path)
        averages = [
            key for key in content if _is_ema(key) and isinstance(content[key], Mapping) and key != name
        ]
        if averages:
            notes.append(f"the file also has a running average of weights, {averages[0]!r}; --ema takes it")
        if name != "model":
            notes.append(f"the weights under {name!r} were taken")
        content, where, ema = content[name], f"{where}[{name!r}]", ema and not _is_ema(name)
    else:
        raise InputError(f"{path} is no checkpoint: dictionaries in dictionaries, and no tensors")
    tensors = {_unwrapped_key(name, path): value for name, value in content.items()}
    for name, value in tensors.items():
        _check_tensor(name, value, path)
    return Checkpoint(_add_tied(_remove_prefix(tensors, ema, path, notes)), config, notes)


def _load(path: Path) -> Any:
    """Load a file of any known format; no code in it is run."""
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
        return _load_safetensors(path)
    is_zip = start.startswith(ZIP_START)
    if not is_zip and not start.startswith(LEGACY_START):
        raise InputError(
            f"{path} is no PyTorch checkpoint: it begins with {start[:8]!r}, neither as a zip nor as PyTorch "
            "before 1.6 nor as safetensors"
        )
    if is_zip:
        _check_zip(path, size)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers, and reading that would run code from the "
            "file. If you trust it, open it once in Python with torch.load(..., weights_only=False) and save "
            "{'model': its state dict} with torch.save"
        ) from error
    except Exception as error:  # torch's reader raises almost any type for a damaged pickle
        raise InputError(f"{path} is a damaged PyTorch checkpoint: {first_line(error)}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is a damaged safetensors file: {first_line(error)}") from error


def _check_zip(path: Path, size: int) -> None:
    """Raise InputError if a zip file is truncated, is no checkpoint, or would grow when unpacked."""
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


def _weights_key(content: Mapping[Any, Any], ema: bool, path: Path) -> str:
    """Return the key of the weights in a dictionary.  Raises InputError if there is none."""
    inner = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
    averages = [name for name in inner if _is_ema(name)]
    if ema and averages:
        return averages[0]
    name = next((name for name in WEIGHTS if name in inner), None)
    if name is not None:
        return name
    shown = ", ".join(repr(str(key)[:40]) for key in list(content)[:5] if isinstance(key, str))
    raise InputError(
        f"{path} is no published checkpoint: neither itself nor what it holds under {', '.join(WEIGHTS)} is "
        f"a dictionary of tensors; it has {shown or 'nothing with a name'}"
    )


def _is_ema(name: Any) -> bool:
    return isinstance(name, str) and bool(EMA.search(name))


def _unwrapped_key(name: Any, path: Path) -> str:
    """Return a tensor's key without the names of wrappers.  Raises InputError if it is not a string."""
    if not isinstance(name, str) or len(name) > 500:
        raise InputError(
            f"{path} is no checkpoint: the names of its tensors must be texts of ordinary length"
        )
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _check_tensor(name: str, value: Tensor, path: Path) -> None:
    """Raise InputError if a tensor is not dense and real, shares elements, or is not finite."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    plain = plain and not value.is_complex()
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path}: {name} is no ordinary tensor, with a value for each of its elements")
    if value.is_floating_point() and not value.isfinite().all():
        raise InputError(f"{path}: {name} holds numbers that are not finite; its training must have failed")


def _remove_prefix(tensors: dict[str, Tensor], ema: bool, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors of the model, without the prefix that their keys share.

    Raises InputError if there are several models in the file.
    """
    prefixes = dict.fromkeys(match[1] for name in tensors if (match := TOWER.match(name)))
    averages = [prefix for prefix in prefixes if _is_ema(prefix)]
    others = [prefix for prefix in prefixes if prefix not in averages]
    if averages and others and not ema:
        notes.append(f"the file also has a running average of weights, {averages[0]!r}; --ema takes it")
    wanted = averages if averages and (ema or not others) else others
    if ema and not averages:
        raise InputError(f"{path} holds no running average (EMA) of the weights")
    if len(wanted) > 1:
        raise InputError(f"{path} holds several models: names begin with {', '.join(map(repr, wanted[:4]))}")
    prefix = wanted[0] if wanted else ""
    if not prefix and not averages:
        return tensors
    model = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if prefix:
        notes.append(f"{prefix!r} was taken off the names of its tensors")
    if averages and prefix not in averages:
        model = {name: value for name, value in model.items() if not _is_ema(name)}
    if len(model) < len(tensors):
        notes.append(f"{len(tensors) - len(model)} tensors outside the model were left out")
    return model


def _add_tied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add tied tensors under their first key; safetensors store only one of two keys."""
    for tower in ("text_encoder", "text_decoder"):
        for head, stack in (("cls.predictions", "bert"), ("lm_head", "roberta")):
            decoder = f"{tower}.{head}.decoder"
            table = f"{tower}.{stack}.embeddings.word_embeddings.weight"
            for first, second in ((table, f"{decoder}.weight"), (f"{tower}.{head}.bias", f"{decoder}.bias")):
                if second in tensors and first not in tensors:
                    tensors = {first: tensors[second], **tensors}
    return tensors


def _plain_config(config: Mapping[Any, Any], path: Path, max_values: int = 10_000) -> dict[str, Any]:
    """Convert a configuration to plain JSON values.

    Raises InputError if it has more than `max_values` values or is nested too deeply.
    """
    left = max_values

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 20:
            raise InputError(f"{path}: its 'config' is no configuration of a run: too large or too deep")
        if isinstance(value, Mapping):
            return {_plain_key(key): plain(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [plain(inner, depth + 1) for inner in value]
        if value is None or isinstance(value, bool | str):
            return value[:10_000] if isinstance(value, str) else value
        if isinstance(value, int) and abs(value) < 2**63:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        return type(value).__name__ if not isinstance(value, int | float) else str(value)[:100]

    tree = plain(config, 0)
    assert isinstance(tree, dict)
    json.dumps(tree, allow_nan=False)
    return tree


def _plain_key(key: Any) -> str:
    return str(key)[:200] if isinstance(key, str | int | float) else type(key).__name__
