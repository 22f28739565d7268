"""An image encoder of the user's own, in a Python file or in an installed package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_config, tiny_tokenizer, toy_batch
from xvlm import registry
from xvlm.common.errors import InputError, MissingFileError
from xvlm.models.checkpoints.folder import ModelBundle, load_model, load_model_config, save_model
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig, build_model
from xvlm.tasks.pretrain import LossConfig, Pretrain

ENCODER = """
import torch
from torch import nn
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.vision.encoder import ImageFeatures, VisionEncoder

class PatchProjection(VisionEncoder):
    def __init__(self, config):
        super().__init__(nn.Conv2d(3, config.options["channels"], 16, stride=16), config)
        self.width = config.options["channels"]

    def forward(self, images):
        x_BDhw = self.model(self.normalize(images))
        return ImageFeatures(x_BDhw.flatten(2).transpose(1, 2), tuple(x_BDhw.shape[2:]))

    def concepts(self, features, concepts):
        set_C = torch.cat((concepts.image_N, torch.arange(len(features))))
        mask_CP = self.patch_mask(features, concepts)
        weight_CP = mask_CP / mask_CP.sum(1, keepdim=True)
        cls_CD = (weight_CP[:, None] @ features.tokens_BPD[set_C])[:, 0]
        return ConceptTokens(features.tokens_BPD, set_C, mask_CP, True, features.grid_hw), cls_CD

def build_encoder(config, pretrained):
    return PatchProjection(config)
"""


def write_package(folder: Path, name: str) -> None:
    """Write an installed package with an entry point of its own name in the group `xvlm.encoders`."""
    (folder / f"{name}.py").write_text(ENCODER)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xvlm.encoders]\n{name} = {name}\n")


def config_with(name: str) -> ModelConfig:
    vision = VisionConfig(name, (64, 96), {"channels": 8})
    return replace(tiny_config(vocab_size=tiny_tokenizer().vocab_size), vision=vision)


def save(name: str, folder: Path) -> Path:
    return save_model(ModelBundle(build_model(config_with(name)).eval(), tiny_tokenizer()), folder)


@pytest.fixture(params=["file", "package"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        (tmp_path / "my_encoder.py").write_text(ENCODER)
        monkeypatch.chdir(tmp_path)
        return "my_encoder.py"
    write_package(tmp_path, "xvlm_test_encoder")
    monkeypatch.syspath_prepend(tmp_path)
    return "xvlm_test_encoder"


def test_it_is_trained_saved_and_loaded(encoder: str, tmp_path: Path) -> None:
    model = build_model(config_with(encoder))
    losses = Pretrain(model, LossConfig())(toy_batch())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.vision.parameters())
    bundle = ModelBundle(model.eval(), tiny_tokenizer())
    loaded = load_model(save_model(bundle, tmp_path / "model")).model
    assert loaded.config == model.config and type(loaded.vision).__name__ == "PatchProjection"
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_file_that_only_a_model_folder_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, marker = tmp_path / "evil.py", tmp_path / "harm"
    path.write_text(ENCODER)
    folder = save(str(path), tmp_path / "model")
    monkeypatch.setattr(registry, "_loaded", {})  # as in a new process
    path.write_text(f"{ENCODER}\nopen({str(marker)!r}, 'w')\n")
    for load in (load_model, load_model_config):
        with pytest.raises(InputError, match=r"config\.json names the Python file .*evil\.py.* not run"):
            load(folder)
    assert not marker.exists()
    registry.load_file(path)
    assert marker.exists()
    load_model(folder)


def test_wrong_encoders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"missing\.py"):
        build_vision(VisionConfig(str(tmp_path / "missing.py")))
    for name, code in {
        "empty": "",
        "number": "build_encoder = 3",
        "none": "def build_encoder(config, pretrained): pass",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
        with pytest.raises(InputError, match=rf"{name}\.py must define a function build_encoder"):
            build_vision(VisionConfig(str(tmp_path / f"{name}.py")))
    (tmp_path / "good.py").write_text(ENCODER)
    with pytest.raises(InputError, match="each side must be 1 to 4096 pixels"):
        build_vision(VisionConfig(str(tmp_path / "good.py"), (10**9, 64), {"channels": 8}))
