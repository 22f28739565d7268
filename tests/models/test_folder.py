"""A model folder restores the saved model bit for bit; an error names what is wrong with a damaged one."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small_disk import fill, small_disk
from tests.tiny import KINDS, tiny_loaded
from xvlm.common.errors import InputError, OutputError
from xvlm.models.checkpoints import folder as folder_module
from xvlm.models.checkpoints.folder import FILES, load_model, save_model

__all__ = ["small_disk"]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    loaded = tiny_loaded(kind)
    with torch.no_grad():  # includes buffers and the temperature
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
    second = tiny_loaded(seed=1)
    save_model(second, tmp_path / "model")
    own = second.model.contrastive.text.weight
    assert torch.equal(load_model(tmp_path / "model").model.contrastive.text.weight, own)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "model" / "leftover").write_text("")
    with pytest.raises(OutputError, match="it holds leftover"):
        save_model(tiny_loaded(seed=2), tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").model.contrastive.text.weight, own)


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def an_object(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [cut, empty, noise, a_list, an_object])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name: str, damage: Callable[[Path], None], saved: Path) -> None:
    damage(saved / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_model(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", None, "model is None; it must be an object"),
        ("max_words", "forty", "max_words is 'forty'; it must be a whole number"),
        ("max_tokens", 0, "max_tokens is 0"),
        ("prompt", 3, "prompt is 3; it must be text"),
        ("model.vision.name", "no_such_tower", "no_such_tower"),
        ("model.text.max_positions", -1, "config.json"),
        ("model.text.heads", 0, "config.json"),
        ("model.text.width", 24, "model.safetensors does not fit config.json"),
        ("model.text.vocab_size", 7, "tokenizer.json has .* tokens, the model embeds 7"),
    ],
)
def test_a_wrong_configuration_is_named(field: str, value: Any, message: str, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    *above, last = field.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    inner[last] = value
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_model(saved)


def test_a_reader_of_a_folder_that_is_replaced_finds_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is replaced between two files is read again from the beginning."""
    save_model(tiny_loaded("vit"), tmp_path / "model")
    calls = []

    def replace_and_load(path: Path) -> dict[str, torch.Tensor]:
        if not calls:
            calls.append(path)
            save_model(tiny_loaded("swin"), tmp_path / "model")
        return load_file(path)

    monkeypatch.setattr(folder_module, "load_file", replace_and_load)
    assert load_model(tmp_path / "model").model.config == tiny_loaded("swin").model.config


@pytest.mark.parametrize("leave_bytes", [0, 8192, 40_000])
def test_a_full_disk_keeps_the_old_folder(leave_bytes: int, small_disk: Path) -> None:
    first = tiny_loaded()
    save_model(first, small_disk / "model")
    fill(small_disk, leave_bytes)
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left"):
        save_model(tiny_loaded(seed=1), small_disk / "model")
    assert {path.name for path in small_disk.iterdir()} == {"model", "ballast"}
    weight = load_model(small_disk / "model").model.contrastive.text.weight
    assert torch.equal(weight, first.model.contrastive.text.weight)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_permissions(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = save_model(tiny_loaded(), tmp_path / "model", measured={"score": 1.0})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~umask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_neither_folder_nor_repository(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a hub repository"):
        load_model(tmp_path / "no" / "such" / "folder")
