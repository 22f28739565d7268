"""A model folder gives back the model that was saved, bit for bit, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import KINDS, tiny_loaded
from xvlm.model import folder as folder_module
from xvlm.model.folder import FILES, load_model, save_model


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    loaded = tiny_loaded(kind)
    with torch.no_grad():  # buffers and temperature too
        for value in loaded.model.state_dict().values():
            value.copy_(torch.rand_like(value) if value.is_floating_point() else value + 3)
    path = save_model(loaded, tmp_path / "model")
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    again = load_model(path)
    assert again.model.config == loaded.model.config
    assert (again.max_words, again.max_tokens) == (loaded.max_words, loaded.max_tokens)
    own, theirs = loaded.model.state_dict(), again.model.state_dict()
    assert own.keys() == theirs.keys()
    assert [name for name in own if not torch.equal(own[name], theirs[name])] == []
    text = "the red dog beside a tree"
    assert again.tokenizer.encode(text, 20) == loaded.tokenizer.encode(text, 20)
    assert not again.model.training


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_model(tiny_loaded(seed=0), tmp_path / "model")
    (tmp_path / "model" / "leftover").write_text("")
    second = tiny_loaded(seed=1)
    save_model(second, tmp_path / "model")
    own = second.model.contrastive.text.weight
    assert torch.equal(load_model(tmp_path / "model").model.contrastive.text.weight, own)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "leftover").exists()


def test_a_write_that_breaks_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_loaded(), tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(folder_module, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_model(tiny_loaded(seed=1), tmp_path / "model")
    load_model(tmp_path / "model")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(tiny_loaded(), tmp_path / "model")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is no model folder: {name} not in it"):
        load_model(saved)


def test_a_later_format_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format": 2}))
    with pytest.raises(ValueError, match="has format 2; this version reads 1"):
        load_model(saved)


def test_an_unknown_field_suggests_the_nearest(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace('"embed_dim": 16', '"embed_dims": 16'))
    with pytest.raises(
        ValueError, match=r"embed_dims is not a field of ModelConfig; did you mean embed_dim?"
    ):
        load_model(saved)


def test_a_missing_tensor_is_named(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["contrastive.text.bias"]
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"contrastive\.text\.bias"):
        load_model(saved)


def test_neither_folder_nor_repository(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a hub repository"):
        load_model(tmp_path / "no" / "such" / "folder")
