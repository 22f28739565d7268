"""The golden files of the repository equal those of the full folder, and are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden import reduced
from tests.golden.reduce import compare, explain
from tests.golden.reduced import DATA, Noise, expand
from tests.published import DEFAULT


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 6_000_000


def test_every_file_equals_that_of_the_full_folder_bit_for_bit() -> None:
    if not DEFAULT.is_dir():
        pytest.skip("the full folder is not beside the checkout")
    compare(DEFAULT)


def test_each_kind_of_encoder_and_of_task_is_there(tmp_path: Path) -> None:
    expand(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    for tower in ("swin224", "swin224_roberta", "clipvit64", "deit64"):
        assert {f"{tower}.pth", f"{tower}_inputs.safetensors", f"{tower}_image_gradnorms.json"} <= names
    for task in ("grounding384", "retrieval224", "weakground224", "nlvr224", "vqa224", "caption224"):
        assert {f"{task}_inputs.safetensors", f"{task}_outputs.safetensors"} <= names
    assert {"trajectory.json", "trajectory_param_groups.json", "text_and_boxes.json"} <= names


@pytest.mark.parametrize("count", [16, 48, 55])
def test_the_noise_equals_that_of_torch(count: int) -> None:
    torch.manual_seed(3)
    torch.rand(7)
    assert reduced.normals(3, 7, count) == pytest.approx(torch.randn(count).numpy(), abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_any_numbers_are_restored_bit_for_bit(dtype: type, tmp_path: Path) -> None:
    value = np.array([0, 1, -1, 3, -40, 100, 7] * 5).astype(dtype)
    if np.dtype(dtype).kind == "f":
        value[:4] = [np.nan, -0.0, np.inf, np.finfo(dtype).tiny]
    entry = {"dtype": value.dtype.str, "shape": value.shape, "constant": 1.0, "noise": [[11, 5, 0.05]]}
    packed = reduced.pack({"x": value}, {"config": {"a": 1}, "tensors": {"x": entry}})
    (tmp_path / "x.xz").write_bytes(packed)
    tensors, config = reduced.unpack(tmp_path / "x.xz", {})
    assert config == {"a": 1} and tensors["x"].numpy().tobytes() == value.tobytes()


def test_noise_is_found_where_it_was_sampled() -> None:
    value = reduced.normals(12, 777, 64) * 0.05 + 1
    noise, constant = explain(value.astype(np.float32), 0, is_parameter=True)
    assert (noise, constant) == ([Noise(12, 777, 0.05)], 1.0)
