"""A foreign model folder passes only sizes, rates and switches to timm, and cannot fill the memory."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.data import make
from tests.tiny import KINDS, VISION, tiny_config, tiny_loaded
from xvlm.common.errors import InputError, XVLMError
from xvlm.data.sources.open import open_source
from xvlm.models.checkpoints.convert import read_published
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.models.checkpoints.size_check import check_sizes, count_elements, vision_size
from xvlm.models.checkpoints.weight_files import bert_folder, find_weights, read_tensors
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.vision.timm_options import check_image_hw, check_options
from xvlm.models.xvlm import build_model
from xvlm.registry import find, names


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(tiny_loaded(), tmp_path / "model")


def change(folder: Path, where: str, value: Any) -> None:
    """Set a field of the folder's model by dotted name."""
    config = json.loads((folder / "config.json").read_text())
    *parents, name = where.split(".")
    inner = config["model"]
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_a_pickle_named_by_a_configuration_is_not_read(saved: Path, tmp_path: Path) -> None:
    """timm 1.0.20 unpickles `checkpoint_path`, whatever is in it."""
    torch.save({"state_dict": Harmful(tmp_path / "harm")}, tmp_path / "evil.pth")
    for name in ("checkpoint_path", "pretrained_cfg_overlay"):
        folder = save_model(tiny_loaded(), tmp_path / name)
        value: Any = str(tmp_path / "evil.pth")
        change(folder, "vision.options", {name: value if name == "checkpoint_path" else {"file": value}})
        with pytest.raises(InputError, match=f"vision.options has '{name}'; allowed are "):
            load_model(folder)
    assert not (tmp_path / "harm").exists()
    with (tmp_path / "evil.pth").open("rb") as file:  # the same file creates the marker if it is unpickled
        torch.load(file, weights_only=False)
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained_cfg": {"url": "https://example.org/a.pth"}},
        {"pretrained": True},
        {"cache_dir": "/tmp"},
        {"features_only": True},
        {"scriptable": True},
        {"num_classes": 3},
        {"in_chans": 1},
        {"norm_layer": "evil"},
        {"block": "evil"},
        {"global_pool": "avg"},
        {"embed_dim": "8"},
        {"embed_dim": 0},
        {"embed_dim": True},
        {"embed_dim": 8.0},
        {"embed_dim": 10**9},
        {"depth": 10**6},
        {"depths": [512, 512]},
        {"depths": []},
        {"depths": [1] * 17},
        {"depths": [1, None]},
        {"channels": [8, -8]},
        {"channels": [[8]]},
        {"mlp_ratio": float("nan")},
        {"drop_path_rate": 1.0},
        {"drop_path_rate": "0.1"},
        {"qkv_bias": 1},
        {"window_size": {"a": 1}},
    ],
)
def test_other_options_and_values_are_refused(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", None)
    name = next(iter(options))
    with pytest.raises(InputError, match=rf"vision\.options(\.| has ')?{name}"):
        build_vision(VisionConfig("resnet10t", (64, 64), options))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            VisionConfig("resnet10t", (64, 64), {"depths": [1, 1]}),
            "cannot build resnet10t with .*: TypeError",
        ),
        (replace(VISION["vit"], options={"embed_dim": 25, "num_heads": 3}), "cannot build deit_tiny"),
        (
            replace(VISION["vit"], image_hw=(63, 64)),
            r"image_hw is \(63, 64\); height and width must be multiples",
        ),
        (replace(VISION["cnn"], std=(0.0, 1.0, 1.0)), r"vision\.std\.0 is 0\.0; it must be above 0"),
        (replace(VISION["cnn"], mean=(float("nan"), 1.0, 1.0)), r"vision\.mean\.0 is nan"),
        (replace(VISION["cnn"], patch_dropout=1.0), r"vision\.patch_dropout is 1\.0"),
    ],
)
def test_an_error_of_timm_becomes_one_sentence(config: VisionConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_model(replace(tiny_config(), vision=config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "local-dir:/tmp/x", "timm/resnet10t", "../resnet10t", "/a"]
)
def test_names_that_are_addresses_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", None)
    monkeypatch.setattr(timm, "is_model", None)
    with pytest.raises(InputError, match="must be the plain name of a timm model"):
        build_vision(VisionConfig(name, (64, 64)))


@pytest.mark.parametrize("recipe", names("recipes"))
def test_options_of_every_recipe_are_allowed(recipe: str) -> None:
    run = find("recipes", recipe).recipe()
    vision = run.model.vision
    check_options(vision.options)
    check_image_hw(vision.image_hw, vision.options)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_before_the_model_is_built(kind: str) -> None:
    config = tiny_config(kind)
    encoder = build_vision(config.vision)
    built = sum(p.numel() for p in encoder.tower().parameters())
    assert built <= vision_size(config) <= 1.2 * built  # positions are those of the name's resolution
    check_options(VISION[kind].options)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text.width", 2**20, r"text\."),
        ("text.vocab_size", 10**9, r"text\.vocab_size x text\.width would have 32,000,000,000 numbers"),
        ("text.max_positions", 10**9, r"text\.max_positions x text\.width would have"),
        ("text.text_layers", 10**6, r"text\.width, text\.mlp_width and the layers would have"),
        ("text.cross_layers", 10**6, "the layers would have"),
        ("text.mlp_width", 10**9, "the layers would have"),
        ("embed_dim", 10**9, r"embed_dim x text\.width would have"),
        ("text.heads", 0, r"text\.heads is 0; it must be at least 1"),
        ("text.heads", 5, r"text\.heads is 5; it must divide width, 32"),
        ("text.width", -32, r"text\.width is -32; it must be at least 1"),
        ("text.text_layers", -1, r"text\.text_layers is -1; it must be at least 0"),
        (
            "vision.options",
            {"channels": [8, 8, 8, 16384]},
            r"vision would have [\d,]+ numbers, .*not that of",
        ),
        ("vision.name", "vit_giant_patch14_224", r"vision would have [\d,]+ numbers"),
        ("vision.image_hw", [10**9, 10**9], r"vision\.image_hw is .*1 to 4096"),
        ("vision.image_hw", [0, 64], r"vision\.image_hw\.0 is 0"),
        ("vision.options", {"window_size": 512, "depths": [1]}, r"vision\.options"),
    ],
)
def test_sizes_that_the_tensors_do_not_have(
    field: str, value: Any, message: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before memory is allocated."""
    if field == "vision.name":
        change(saved, "vision.options", {})
    if field == "vision.options" and "window_size" in value:
        change(saved, "vision.image_hw", [4096, 4096])
    change(saved, field, value)
    monkeypatch.setattr("xvlm.models.checkpoints.folder.build_model", None)
    with pytest.raises(InputError, match=message):
        load_model(saved)


@pytest.mark.parametrize("kind", KINDS)
def test_another_resolution_is_not_another_model(kind: str, tmp_path: Path) -> None:
    loaded = tiny_loaded(kind)
    folder = save_model(loaded, tmp_path / "model")
    config = loaded.model.config
    larger = replace(config, vision=replace(config.vision, image_hw=(256, 384)))
    check_sizes(larger, folder / "model.safetensors")


def test_elements_are_counted_from_the_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(())}, tmp_path / "a.safetensors")
    assert count_elements(tmp_path / "a.safetensors") == {"a": 6, "b": 1}
    for data in (
        b"",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{" * 10,
    ):
        (tmp_path / "a.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="is no file of tensors, or a damaged one"):
            count_elements(tmp_path / "a.safetensors")


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of these pickles, arrays of objects and packages would write the marker."""
    marker = tmp_path / "harm"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Harmful(marker)}))
    torch.save({"model": Harmful(marker)}, tmp_path / "evil.bin")
    np.savez(tmp_path / "evil.npz", state=np.array([Harmful(marker)], dtype=object))
    make.write_tar(tmp_path / "evil.tar", [("a.txt", b"a"), ("a.jpg", b"")])
    (tmp_path / "evil.npz").rename(tmp_path / "evil.tar.idx")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Harmful(marker)], protocol=2))
    (tmp_path / "instances.json").write_text('{"images": [], "annotations": [], "categories": []}')
    for name in ("marker_package", "marker_package/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    refused: list[Callable[[], object]] = [
        lambda: read_tensors(tmp_path / "evil.pth"),
        lambda: read_tensors(tmp_path / "evil.bin"),
        lambda: read_published(tmp_path / "evil.pth"),
        lambda: read_published(tmp_path / "evil.bin"),
        lambda: open_source(f"refcoco:{tmp_path}:unc:val"),
        lambda: find_weights("python:marker_package.inner"),
        lambda: find_weights("python:marker_package", trusted=False),
        lambda: bert_folder("python:marker_package"),
    ]
    for read in refused:
        with pytest.raises(XVLMError):
            read()
    assert len(open_source(str(tmp_path / "evil.tar"))) == 1  # its index is built again
    assert not marker.exists() and "marker_package" not in sys.modules
