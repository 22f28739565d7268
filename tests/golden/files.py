"""Access to the golden files, which hold what the published model computed."""

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
from xvlm.models.checkpoints.initial_weights import load_tensors
from xvlm.models.checkpoints.position_resize import fit_positions
from xvlm.models.checkpoints.published_names import from_published
from xvlm.models.checkpoints.published_sizes import UnseenSizes, config_of
from xvlm.models.xvlm import XVLM, build_model

RELATIVE = 1e-6
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def names() -> list[str]:
    """Return the names of all files."""
    return sorted(path.name for path in folder().iterdir())


def pretraining() -> list[str]:
    """Return the checkpoints that come with an image batch and a region batch, such as `swin224`."""
    return [
        name.removesuffix("_image_gradnorms.json")
        for name in names()
        if name.endswith("_image_gradnorms.json")
    ]


@functools.cache
def checkpoint(name: str) -> dict[str, Tensor]:
    """Return the state dict of a published checkpoint, such as `swin224`."""
    path = folder() / f"{name}.pth"
    return torch.load(path, weights_only=True)["model"]  # type: ignore[no-any-return]


def tensors(name: str) -> dict[str, Tensor]:
    """Return a file of tensors, such as `swin224_inputs`; floating-point tensors become float64."""
    loaded = load_file(folder() / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in loaded.items()}


def unseen(tower: str) -> UnseenSizes:
    """Return the sizes that a checkpoint's tensors do not show, from the folder's `config.json`."""
    config = golden("config.json")
    vision = config.get(tower, {})
    is_vit = "patch_size" in vision
    return UnseenSizes(
        text_heads=config["text"]["num_attention_heads"],
        vision_heads=vision.get("num_heads", vision.get("num_attention_heads")) if is_vit else None,
        local_depth=vision.get("local_attn_depth"),
    )


def model(name: str, dtype: torch.dtype = torch.float64, **sizes: Any) -> XVLM:
    """Return the model with a golden checkpoint's weights, in evaluation mode, for normalized images."""
    published = checkpoint(name)
    native = build_model(config_of(published, unseen(name)))
    converted = from_published(native, published, name).tensors
    resized = build_model(config_of(published, replace(unseen(name), **sizes))) if sizes else native
    load_tensors(resized, fit_positions(resized, converted), name)
    resized.vision.mean.zero_()
    resized.vision.std.fill_(1)
    return resized.to(dtype).eval()


def case(
    checkpoint_name: str, name: str, dtype: torch.dtype = torch.float64
) -> tuple[XVLM, dict[str, Tensor], dict[str, Tensor]]:
    """Return the model of a checkpoint, and inputs and published outputs of `name`."""
    return model(checkpoint_name, dtype), tensors(f"{name}_inputs"), tensors(f"{name}_outputs")


def packed(ids_NL: Tensor, mask_NL: Tensor) -> Texts:
    """Pack (N, L) padded ids with a 0/1 mask."""
    return Texts.pack([row[: int(mask.sum())].tolist() for row, mask in zip(ids_NL, mask_NL, strict=True)])


def unpadded(states_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """(N, L, ...) padded -> (T, ...) packed."""
    return states_NLD[mask_NL.bool()]


def assert_same(actual: Tensor, published: Tensor, what: str, relative: float = RELATIVE) -> None:
    """Assert that |actual - published| / |published| is at most `relative`."""
    assert actual.shape == published.shape, (
        f"{what}: {tuple(actual.shape)}, published {tuple(published.shape)}"
    )
    error = float((actual.double() - published).norm() / published.double().norm().clamp(min=1e-12))
    assert error <= relative, f"{what} differs from the published by {error:.2e}"


def rows(name: str) -> Any:
    """Return the content of a JSON file."""
    return json.loads((folder() / name).read_text())


def path(name: str) -> Path:
    """Return the path of a golden file."""
    return folder() / name
