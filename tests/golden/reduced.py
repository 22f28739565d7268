"""Unpack the golden files of the repository, bit for bit.

Nearly every number of the golden inputs and checkpoints is noise from a seeded generator, which no
compression makes smaller.  A packed tensor therefore names the generator's seed and position, and stores only
the difference from the numbers sampled there.  Outputs of the published model are stored as they are.
"""

from __future__ import annotations

import functools
import json
import lzma
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as safetensors_numpy
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
PACKED = ".xz"
ORDER = "order.json"  # names of the packed files, each after those that it refers to
INTEGERS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
DRAWS = 8_000_000  # numbers of each seed that the golden files use
HEADER = "tensors"


@dataclass(frozen=True)
class Noise:
    """`scale` times the standard normal numbers that a generator makes from a position on."""

    seed: int
    position: int
    scale: float


def expand(to: Path) -> None:
    """Write every golden file of the repository to a folder, as the full folder has it."""
    unpacked: dict[str, dict[str, Tensor]] = {}
    for path in DATA.iterdir():
        if path.suffix != PACKED and path.name != ORDER:
            shutil.copy(path, to / path.name)
    names = json.loads((DATA / ORDER).read_text())
    for name in names:
        tensors, config = unpack(DATA / f"{name}{PACKED}", unpacked)
        unpacked[name] = tensors
        if name.endswith(".pth"):
            torch.save({"model": tensors} | ({} if config is None else {"config": config}), to / name)
        else:
            save_file(tensors, to / name)


def unpack(path: Path, before: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of a packed file and its `config`; `before` holds the files that it may refer to."""
    planes = safetensors_numpy.load(lzma.decompress(path.read_bytes()))
    header = json.loads(planes.pop(HEADER).tobytes())
    tensors: dict[str, Tensor] = {}
    for key, entry in header["tensors"].items():
        if "same_as" in entry:
            name, other = entry["same_as"]
            tensors[key] = (before[name] if name else tensors)[other].clone()
            continue
        noise = [Noise(*one) for one in entry["noise"]]
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        bits = from_planes(planes[key], dtype) + bits_of(predicted(noise, entry["constant"], dtype, shape))
        tensors[key] = torch.from_numpy(bits.view(dtype).reshape(shape))
    return tensors, header["config"]


def pack(tensors: Mapping[str, NDArray[Any]], header: dict[str, Any]) -> bytes:
    """Return a packed file; `header["tensors"]` has the noise to subtract from each tensor, or its copy."""
    planes = {HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
    for key, entry in header["tensors"].items():
        if "same_as" not in entry:
            value, noise = tensors[key], [Noise(*one) for one in entry["noise"]]
            expected = predicted(noise, entry["constant"], value.dtype, value.shape)
            planes[key] = to_planes(bits_of(value) - bits_of(expected))
    return lzma.compress(safetensors_numpy.save(planes), preset=9 | lzma.PRESET_EXTREME)


def predicted(
    noise: list[Noise], constant: float, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return the tensor of this shape that consists of the noise alone; without noise, a constant."""
    count = int(np.prod(shape))
    value = np.full(count, float(constant))
    for one in noise:
        value += one.scale * normals(one.seed, one.position, count)
    return value.astype(dtype)


@functools.lru_cache(maxsize=2)
def uniforms(seed: int) -> NDArray[np.float64]:
    """Return (DRAWS,) numbers in [0, 1) of 24 bits each, as torch's CPU generator makes them."""
    bits = np.random.RandomState(seed).randint(0, 2**32, DRAWS, dtype=np.uint32)
    return (bits & 0xFFFFFF) * 2.0**-24


def normals(seed: int, position: int, count: int) -> NDArray[np.float64]:
    """Return (count,) normal numbers as `torch.randn` makes them: by Box-Muller in groups of sixteen.

    The last sixteen numbers are sampled again if `count` is no multiple of sixteen.
    """
    whole = count // 16 * 16
    normal = box_muller(uniforms(seed)[position : position + whole])
    if whole == count:
        return normal
    last = box_muller(uniforms(seed)[position + count : position + count + 16])
    return np.concatenate((normal, last))[np.r_[0 : count - 16, whole : whole + 16]]


def box_muller(uniform_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) numbers in [0, 1) -> (N,) standard normal numbers; N is a multiple of sixteen."""
    first, second = uniform_N.reshape(-1, 2, 8).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)


def bits_of(value: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of each of (N,) numbers as an unsigned integer of its size."""
    return np.ascontiguousarray(value).reshape(-1).view(INTEGERS[value.dtype.itemsize])


def to_planes(bits_N: NDArray[Any]) -> NDArray[np.uint8]:
    """(N,) unsigned differences -> (bytes, N); small differences of either sign have zeros as high bytes."""
    signed = bits_N.view(f"i{bits_N.itemsize}")
    folded = ((signed << 1) ^ (signed >> (8 * bits_N.itemsize - 1))).view(bits_N.dtype)
    return np.ascontiguousarray(folded.view(np.uint8).reshape(-1, bits_N.itemsize).T)


def from_planes(planes: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """(bytes, N) -> (N,) unsigned differences."""
    folded = np.ascontiguousarray(planes.T).reshape(-1).view(INTEGERS[dtype.itemsize])
    return (folded >> 1) ^ -(folded & 1)
