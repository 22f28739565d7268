"""The folder of golden files: which there are, and what the published model computed."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.published import folder, golden
from xvlm.batch import Texts
from xvlm.model.published import from_published
from xvlm.model.published_sizes import Unseen, config_of
from xvlm.model.resize import fit_positions
from xvlm.model.weights import put
from xvlm.model.xvlm import XVLM, build_model

RELATIVE = 1e-6
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def names() -> list[str]:
    """Every file of the folder."""
    return sorted(path.name for path in folder().iterdir())


def pretraining() -> list[str]:
    """The checkpoints that come with an image batch and a region batch, `swin224` and the like."""
    return [
        name.removesuffix("_image_gradnorms.json")
        for name in names()
        if name.endswith("_image_gradnorms.json")
    ]


@functools.cache
def checkpoint(name: str) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, `swin224` say."""
    path = folder() / f"{name}.pth"
    return torch.load(path, weights_only=True)["model"]  # type: ignore[no-any-return]


def tensors(name: str) -> dict[str, Tensor]:
    """A file of tensors, `swin224_inputs` say; images come as float64."""
    found = load_file(folder() / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in found.items()}


def unseen(tower: str) -> Unseen:
    """The sizes that a checkpoint's tensors do not show, from the folder's `config.json`."""
    config = golden("config.json")
    vision = config.get(tower, {})
    is_vit = "patch_size" in vision
    return Unseen(
        text_heads=config["text"]["num_attention_heads"],
        vision_heads=vision.get("num_heads", vision.get("num_attention_heads")) if is_vit else None,
        local_depth=vision.get("local_attn_depth"),
    )


def model(name: str, dtype: torch.dtype = torch.float64, **sizes: Any) -> XVLM:
    """The packed model with a golden checkpoint's weights, in evaluation mode, for images that are normalised
    already."""
    given = checkpoint(name)
    native = build_model(config_of(given, unseen(name)))
    ours = from_published(native, given, name).given
    built = build_model(config_of(given, replace(unseen(name), **sizes))) if sizes else native
    put(built, fit_positions(built, ours), name)
    built.vision.mean.zero_()
    built.vision.std.fill_(1)
    return built.to(dtype).eval()


def packed(ids_NL: Tensor, mask_NL: Tensor) -> Texts:
    """Padded ids and their 0/1 mask -> packed texts."""
    return Texts.pack([row[: int(mask.sum())].tolist() for row, mask in zip(ids_NL, mask_NL, strict=True)])


def unpadded(states_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """(N, L, ...) padded -> (T, ...) packed."""
    return states_NLD[mask_NL.bool()]


def assert_same(found: Tensor, published: Tensor, what: str, relative: float = RELATIVE) -> None:
    """|found - published| / |published| is at most `relative`."""
    assert found.shape == published.shape, f"{what}: {tuple(found.shape)}, published {tuple(published.shape)}"
    error = float((found.double() - published).norm() / published.double().norm().clamp(min=1e-12))
    assert error <= relative, f"{what} differs from the published by {error:.2e}"


def rows(name: str) -> Any:
    """A JSON file of the folder."""
    return json.loads((folder() / name).read_text())


def path(name: str) -> Path:
    """Where a golden file is."""
    return folder() / name
