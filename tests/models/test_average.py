"""Averaging takes the mean over the models that have a weight, and refuses different architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import KINDS, tiny_config, tiny_loaded, tiny_loaded_for, tiny_tokenizer
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.checkpoints.adapt import adapt_model
from xvlm.models.checkpoints.average import average
from xvlm.models.checkpoints.folder import ModelBundle, load_model, save_model
from xvlm.models.xvlm import build_model


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two models of one architecture with different weights; the second is in a run's folder."""
    save_model(tiny_loaded(seed=0), tmp_path / "a")
    save_model(tiny_loaded(seed=1), tmp_path / "b" / "model")
    return [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize("weights", [(), (1.0, 3.0), (0.0, 2.0), (0.2, 0.0)])
def test_every_weight_is_the_mean(two: list[Path], weights: tuple[float, ...], tmp_path: Path) -> None:
    average(two, tmp_path / "mean", weights)
    expected_weights = weights or (1.0, 1.0)
    a, b, mean = (load_model(folder).model.state_dict() for folder in (*two, tmp_path / "mean"))
    assert a.keys() == b.keys() == mean.keys()
    for name, value in mean.items():
        if value.is_floating_point():
            total = expected_weights[0] * a[name].double() + expected_weights[1] * b[name].double()
            expected = total / sum(expected_weights)
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6, msg=name)
        else:
            assert torch.equal(value, a[name])
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_the_mean_of_equal_models_is_the_model(two: list[Path], tmp_path: Path) -> None:
    average([two[0]] * 3, tmp_path / "mean", (0.1, 0.7, 5.0))
    own, mean = load_model(two[0]).model.state_dict(), load_model(tmp_path / "mean").model.state_dict()
    for name, value in own.items():
        torch.testing.assert_close(mean[name], value, rtol=1e-6, atol=1e-6)


def test_heads_that_only_one_model_has(two: list[Path], tmp_path: Path) -> None:
    """Those of the first model stay, those of the other are left out; common weights are averaged."""
    whole = load_model(two[0])
    part = replace(whole.model.config, heads=("contrastive",))
    towers = ModelBundle(adapt_model(load_model(two[1]).model, part)[0], whole.tokenizer)
    save_model(towers, tmp_path / "towers")
    mean = average([two[0], tmp_path / "towers"], tmp_path / "x").model
    assert mean.config == whole.model.config
    one, other, both = whole.model.state_dict(), towers.model.state_dict(), mean.state_dict()
    assert one.keys() - other.keys() and not other.keys() - one.keys()
    for name in one.keys() - other.keys():
        assert torch.equal(both[name], one[name]), name
    name = "contrastive.text.weight"
    torch.testing.assert_close(both[name], (one[name] + other[name]) / 2)
    small = average([tmp_path / "towers", two[0]], tmp_path / "y", (1, 0)).model
    assert small.config.heads == ("contrastive",) and small.state_dict().keys() == other.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size(kind: str, tmp_path: Path) -> None:
    """The result has the size of the first model; positions of the other are resized."""
    sizes = {"small": (64, 64), "large": (128, 128)}
    for seed, (name, image_hw) in enumerate(sizes.items()):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        config = tiny_config(kind, image_hw, vocab_size=tokenizer.vocab_size)
        save_model(ModelBundle(build_model(config).eval(), tokenizer), tmp_path / name)
    mean = average([tmp_path / "large", tmp_path / "small"], tmp_path / "mean").model
    assert mean.config.vision.image_hw == (128, 128)
    load_model(tmp_path / "mean")


def test_an_error_says_why_models_cannot_be_averaged(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def error(others: list[Path], weights: tuple[float, ...] = ()) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            average([two[0], *others], out, weights)
        assert not out.exists()
        return str(caught.value)

    assert "at least two models, found 1" in error([])
    assert "3 weights for 2 models" in error([two[1]], (1, 2, 3))
    assert "each must be 0 or more" in error([two[1]], (1, -1))
    assert "one of them more than 0" in error([two[1]], (0, 0))
    assert "each must be 0 or more" in error([two[1]], (1, float("nan")))
    assert "neither a folder here" in error([tmp_path / "nothing"])

    def saved(loaded: ModelBundle) -> Path:
        return save_model(loaded, tmp_path / "other")

    assert "another vision encoder" in error([saved(tiny_loaded("vit"))])
    loaded = tiny_loaded()
    deeper = replace(loaded.model.config, text=replace(loaded.model.config.text, cross_layers=3))
    assert "another text stack" in error([saved(replace(loaded, model=build_model(deeper)))])
    wider = replace(loaded.model.config, embed_dim=24)
    assert "only models of one architecture" in error([saved(replace(loaded, model=build_model(wider)))])
    words = Tokenizer.train_wordpiece(["other words than those"], loaded.tokenizer.vocab_size)
    assert "another tokenizer" in error([saved(replace(loaded, tokenizer=words))])


def test_a_fine_tuned_model_keeps_its_task_head(tmp_path: Path) -> None:
    """A VQA decoder stays unchanged if the other model has none."""
    fine = tiny_loaded_for("vqa_decoder")
    save_model(fine, tmp_path / "fine")
    config = replace(fine.model.config, heads=("contrastive", "matching"))
    save_model(replace(fine, model=build_model(config)), tmp_path / "before")
    mean = average([tmp_path / "fine", tmp_path / "before"], tmp_path / "mean").model.state_dict()
    decoder = [name for name in mean if name.startswith("vqa_decoder")]
    assert decoder
    for name in decoder:
        assert torch.equal(mean[name], fine.model.state_dict()[name])
