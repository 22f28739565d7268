"""Packs the full folder of golden files into the repository.

`python -m tests.golden.reduce ../shared/golden` takes some minutes.  Every file is read back and compared to
the bit before anything is said to be done.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from tests.golden.reduced import DATA, DRAWS, ORDER, PACKED, Noise, expand, pack, predicted, uniforms

INPUT_SEEDS = range(11, 19)  # of the images
INIT_SEED, NOISE_SEED = 11, 12  # of the parameters' first values, and of what was added to them
INIT_SCALE, MATRIX_SCALE, VECTOR_SCALE = 0.02, 0.08, 0.05
PROBE = 128  # where a tensor is looked up: an embedding's first row may be zeros


class Written(NamedTuple):
    """Where a tensor is kept; where the noise that was added to the checkpoint's next parameter begins."""

    file: str
    key: str
    end: int


def reduce(full: Path) -> None:
    """Writes `tests/golden/data` from the full folder."""
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir()
    written: dict[bytes, Written] = {}
    paths = [path for path in sorted(full.iterdir()) if path.suffix in (".pth", ".safetensors")]
    paths.sort(key=lambda path: (path.suffix, path.name not in ("swin224.pth",), path.name))
    for path in paths:
        tensors, config = read(path)
        header = {"config": config, "tensors": told(path.name, tensors, written)}
        packed = pack(tensors, header)
        (DATA / f"{path.name}{PACKED}").write_bytes(packed)
        print(f"{path.name}: {path.stat().st_size} -> {len(packed)} bytes", flush=True)
    for path in full.glob("*.json"):
        shutil.copyfile(path, DATA / path.name)
    (DATA / ORDER).write_text(json.dumps([path.name for path in paths], indent=1) + "\n")
    compare(full)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """The tensors of a file and, of a checkpoint, its `config`."""
    if path.suffix == ".safetensors":
        return {key: value.numpy() for key, value in load_file(path).items()}, None
    whole = torch.load(path, weights_only=True)
    if not whole.keys() <= {"model", "config"}:
        raise ValueError(f"{path} holds {sorted(whole)}")
    return {key: value.numpy() for key, value in whole["model"].items()}, whole.get("config")


def told(
    name: str, tensors: dict[str, NDArray[Any]], written: dict[bytes, Written]
) -> dict[str, dict[str, Any]]:
    """How each tensor of a file is kept; notes it in `written`."""
    found: dict[str, dict[str, Any]] = {}
    position = 0
    for key, value in tensors.items():
        identity = repr((value.dtype, value.shape)).encode() + value.tobytes()
        if identity in written:
            before = written[identity]
            found[key] = {"same_as": ["" if before.file == name else before.file, before.key]}
            position = max(position, before.end)
            continue
        noise, constant = explained(value, position, is_parameter=name.endswith(".pth"))
        if name.endswith(".pth") and noise:
            position = noise[0].position + value.size + (16 if value.size % 16 else 0)
        written[identity] = Written(name, key, position)
        found[key] = {
            "dtype": value.dtype.str,
            "shape": value.shape,
            "constant": constant,
            "noise": [[one.seed, one.position, one.scale] for one in noise],
        }
    return found


def explained(value: NDArray[Any], position: int, is_parameter: bool) -> tuple[list[Noise], float]:
    """The noise that a tensor is made of, and what it was added to; none where it is something else."""
    if value.dtype.kind != "f" or value.size < 16:
        return [], 0.0
    if not is_parameter:
        candidates = [([Noise(*one, 1.0)], 0.0) for one in places(value, 1.0, INPUT_SEEDS)]
    elif value.ndim == 1:
        constant = round(float(value.mean()))
        scaled = [Noise(*one, VECTOR_SCALE) for one in places(value - constant, VECTOR_SCALE, [NOISE_SEED])]
        candidates = [([one], float(constant)) for one in scaled]
    else:
        added = Noise(NOISE_SEED, position, MATRIX_SCALE)
        rest = value - predicted([added], 0.0, np.dtype(float), value.shape).reshape(value.shape)
        begun = places(rest, INIT_SCALE, [INIT_SEED])
        candidates = [([added, Noise(*one, INIT_SCALE)], 0.0) for one in begun]
        candidates.append(([added], 0.0))
    plain = (list[Noise](), 0.0)
    noise, constant = min([plain, *candidates], key=lambda one: cost(value, *one))
    return (noise, constant) if noise or not is_parameter else ([], 0.0)


def cost(value: NDArray[Any], noise: list[Noise], constant: float) -> int:
    """Bytes of a tensor that is kept as what differs from this noise."""
    header = {"dtype": value.dtype.str, "shape": value.shape, "constant": constant}
    header["noise"] = [[one.seed, one.position, one.scale] for one in noise]
    return len(pack({"x": value}, {"config": None, "tensors": {"x": header}}))


def places(value: NDArray[Any], scale: float, seeds: Any) -> list[tuple[int, int]]:
    """Seeds and positions at which a generator makes these numbers, were they multiplied with `scale`."""
    flat = value.reshape(-1).astype(float) / scale
    probe = PROBE if flat.size >= PROBE + 16 else 0
    asked = flat[probe : probe + 8]
    found: list[tuple[int, int]] = []
    for seed in seeds:
        drawn = uniforms(seed)
        near = np.flatnonzero(np.abs(first_numbers(seed) - asked[0]) < 3e-3)
        for k in range(1, 8):
            near = near[near + k + 8 < DRAWS]
            there = np.sqrt(-2 * np.log1p(-drawn[near + k])) * np.cos(2 * np.pi * drawn[near + k + 8])
            near = near[np.abs(there - asked[k]) < 3e-3]
        found += [(seed, int(place) - probe) for place in near if place >= probe]
    return [(seed, place) for seed, place in found if place + flat.size + 16 <= DRAWS]


_first: dict[int, NDArray[np.float32]] = {}


def first_numbers(seed: int) -> NDArray[np.float32]:
    """(DRAWS - 8,) The first normal number of the sixteen that begin at each position."""
    if seed not in _first:
        drawn = uniforms(seed).astype(np.float32)
        _first[seed] = np.sqrt(-2 * np.log1p(-drawn[:-8])) * np.cos(np.float32(2 * np.pi) * drawn[8:])
    return _first[seed]


def compare(full: Path) -> None:
    """Every file that is read back equals that of the full folder, to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        expand(Path(folder))
        for path in sorted(full.iterdir()):
            back = Path(folder) / path.name
            if path.suffix not in (".pth", ".safetensors"):
                assert path.name == "README.md" or path.read_bytes() == back.read_bytes(), path.name
                continue
            (theirs, config), (ours, own_config) = read(path), read(back)
            assert config == own_config and list(theirs) == list(ours), path.name
            for key, value in theirs.items():
                same = value.dtype == ours[key].dtype and value.shape == ours[key].shape
                assert same and value.tobytes() == ours[key].tobytes(), f"{path.name}: {key}"
    print(f"{sum(path.stat().st_size for path in DATA.iterdir())} bytes in all, every file the same")


if __name__ == "__main__":
    reduce(Path(sys.argv[1]))
