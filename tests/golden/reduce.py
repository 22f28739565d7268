"""Pack the full folder of golden files into the repository.

`python -m tests.golden.reduce FOLDER` takes some minutes.  Every packed file is unpacked and compared bit for
bit.
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

INPUT_SEEDS = range(11, 19)  # seeds of the images
INIT_SEED, NOISE_SEED = 11, 12  # seeds of the initial parameters, and of the noise that was added to them
INIT_SCALE, MATRIX_SCALE, VECTOR_SCALE = 0.02, 0.08, 0.05
PROBE = 128  # index where a tensor is searched, since the first row of an embedding may be zeros


class Location(NamedTuple):
    """Location of a packed tensor, and where the noise of the checkpoint's next parameter begins."""

    file: str
    key: str
    end: int


def reduce(full: Path) -> None:
    """Write `tests/golden/data` from the full folder."""
    paths = [path for path in sorted(full.iterdir()) if path.suffix in (".pth", ".safetensors")]
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir()
    locations: dict[bytes, Location] = {}
    paths.sort(key=lambda path: (path.suffix, path.name not in ("swin224.pth",), path.name))
    for path in paths:
        tensors, config = read(path)
        header = {"config": config, "tensors": describe(path.name, tensors, locations)}
        packed = pack(tensors, header)
        (DATA / f"{path.name}{PACKED}").write_bytes(packed)
        print(f"{path.name}: {path.stat().st_size} -> {len(packed)} bytes", flush=True)
    for path in full.glob("*.json"):
        shutil.copyfile(path, DATA / path.name)
    (DATA / ORDER).write_text(json.dumps([path.name for path in paths], indent=1) + "\n")
    compare(full)


def read(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return the tensors of a file and, of a checkpoint, its `config`."""
    if path.suffix == ".safetensors":
        return {key: value.numpy() for key, value in load_file(path).items()}, None
    checkpoint = torch.load(path, weights_only=True)
    if not checkpoint.keys() <= {"model", "config"}:
        raise ValueError(f"{path} holds {sorted(checkpoint)}")
    return {key: value.numpy() for key, value in checkpoint["model"].items()}, checkpoint.get("config")


def describe(
    name: str, tensors: dict[str, NDArray[Any]], locations: dict[bytes, Location]
) -> dict[str, dict[str, Any]]:
    """Describe how each tensor of a file is packed, and add it to `locations`."""
    described: dict[str, dict[str, Any]] = {}
    position = 0
    for key, value in tensors.items():
        identity = repr((value.dtype, value.shape)).encode() + value.tobytes()
        if identity in locations:
            before = locations[identity]
            described[key] = {"same_as": ["" if before.file == name else before.file, before.key]}
            position = max(position, before.end)
            continue
        noise, constant = explain(value, position, is_parameter=name.endswith(".pth"))
        if name.endswith(".pth") and noise:
            position = noise[0].position + value.size + (16 if value.size % 16 else 0)
        locations[identity] = Location(name, key, position)
        described[key] = {
            "dtype": value.dtype.str,
            "shape": value.shape,
            "constant": constant,
            "noise": [[one.seed, one.position, one.scale] for one in noise],
        }
    return described


def explain(value: NDArray[Any], position: int, is_parameter: bool) -> tuple[list[Noise], float]:
    """Return the noise in a tensor and the constant that it was added to; no noise if there is none."""
    if value.dtype.kind != "f" or value.size < 16:
        return [], 0.0
    if not is_parameter:
        candidates = [([Noise(*one, 1.0)], 0.0) for one in find_noise(value, 1.0, INPUT_SEEDS)]
    elif value.ndim == 1:
        constant = round(float(value.mean()))
        scaled = [
            Noise(*one, VECTOR_SCALE) for one in find_noise(value - constant, VECTOR_SCALE, [NOISE_SEED])
        ]
        candidates = [([one], float(constant)) for one in scaled]
    else:
        added = Noise(NOISE_SEED, position, MATRIX_SCALE)
        rest = value - predicted([added], 0.0, np.dtype(float), value.shape).reshape(value.shape)
        initial = find_noise(rest, INIT_SCALE, [INIT_SEED])
        candidates = [([added, Noise(*one, INIT_SCALE)], 0.0) for one in initial]
        candidates.append(([added], 0.0))
    plain = (list[Noise](), 0.0)
    noise, constant = min([plain, *candidates], key=lambda one: cost(value, *one))
    return (noise, constant) if noise or not is_parameter else ([], 0.0)


def cost(value: NDArray[Any], noise: list[Noise], constant: float) -> int:
    """Return the bytes of a tensor that is packed as the difference from this noise."""
    header = {"dtype": value.dtype.str, "shape": value.shape, "constant": constant}
    header["noise"] = [[one.seed, one.position, one.scale] for one in noise]
    return len(pack({"x": value}, {"config": None, "tensors": {"x": header}}))


def find_noise(value: NDArray[Any], scale: float, seeds: Any) -> list[tuple[int, int]]:
    """Return seeds and positions at which a generator makes these numbers, before scaling by `scale`."""
    flat = value.reshape(-1).astype(float) / scale
    probe = PROBE if flat.size >= PROBE + 16 else 0
    wanted = flat[probe : probe + 8]
    matches: list[tuple[int, int]] = []
    for seed in seeds:
        uniform = uniforms(seed)
        near = np.flatnonzero(np.abs(first_numbers(seed) - wanted[0]) < 3e-3)
        for k in range(1, 8):
            near = near[near + k + 8 < DRAWS]
            normal = np.sqrt(-2 * np.log1p(-uniform[near + k])) * np.cos(2 * np.pi * uniform[near + k + 8])
            near = near[np.abs(normal - wanted[k]) < 3e-3]
        matches += [(seed, int(position) - probe) for position in near if position >= probe]
    return [(seed, position) for seed, position in matches if position + flat.size + 16 <= DRAWS]


_first: dict[int, NDArray[np.float32]] = {}


def first_numbers(seed: int) -> NDArray[np.float32]:
    """Return (DRAWS - 8,) the first normal number of the sixteen that begin at each position."""
    if seed not in _first:
        uniform = uniforms(seed).astype(np.float32)
        _first[seed] = np.sqrt(-2 * np.log1p(-uniform[:-8])) * np.cos(np.float32(2 * np.pi) * uniform[8:])
    return _first[seed]


def compare(full: Path) -> None:
    """Assert that every unpacked file equals that of the full folder, bit for bit."""
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
