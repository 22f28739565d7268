"""The error of a damaged model folder is one sentence that names the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_loaded
from xvlm.common.errors import XVLMError
from xvlm.models.checkpoints.folder import load_model, save_model

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_loaded("cnn"), tmp_path_factory.mktemp("folder") / "model")


def overwrite(name: str, content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def truncate(name: str, fraction: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * fraction)])

    return damage


def delete(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def make_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def change(name: str, *path: str, to: Any = None, drop: bool = False) -> Damage:
    """Replace or delete one value of a JSON file."""

    def damage(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        if drop:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        (folder / name).write_text(json.dumps(tree))

    return damage


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        edit(state)
        save_file(state, folder / "model.safetensors")

    return damage


def empty_vocabulary(folder: Path) -> None:
    for path, empty in ((("model", "vocab"), {}), (("added_tokens",), [])):
        change(TOKENIZER, *path, to=empty)(folder)


def header(text: bytes, length: int | None = None) -> Damage:
    """Write a safetensors file with this header."""
    size = struct.pack("<Q", len(text) if length is None else length)
    return overwrite("model.safetensors", size + text + b"\0" * 64)


CONFIG, TENSORS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
BIAS = "contrastive.vision.bias"

DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    **{f"no {name}": (delete(name), [f"{name} not in it"]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{f"{name} is a folder": (make_folder(name), [name]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{f"empty {name}": (overwrite(name, ""), [name]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{
        f"{name} cut at {fraction}": (truncate(name, fraction), [name])
        for name in (CONFIG, TENSORS, TOKENIZER)
        for fraction in (0.01, 0.5, 0.98)
    },
    **{
        f"{name} is noise": (overwrite(name, bytes(range(256)) * 3), [name])
        for name in (CONFIG, TENSORS, TOKENIZER)
    },
    **{
        f"{name} is {text[:9]}": (overwrite(name, text), [name])
        for name in (CONFIG, TOKENIZER)
        for text in ("[]", "3", "null", '"a text"', "{}", "[" * 100_000, "{'format': 1}", "NaN")
    },
    "cut in a line": (
        overwrite(CONFIG, '{\n "format": 1,\n "model": '),
        ["config.json", "line 3, column 11"],
    ),
    "format 2": (change(CONFIG, "format", to=2), ["config.json has format 2; this version reads 1"]),
    "no format": (change(CONFIG, "format", drop=True), ["config.json has format None"]),
    "format is a list": (change(CONFIG, "format", to=[1]), ["has format [1]"]),
    "no model": (change(CONFIG, "model", drop=True), ["model is None; it must be an object"]),
    "model is a list": (change(CONFIG, "model", to=[]), ["model is []; it must be an object"]),
    "no max_words": (change(CONFIG, "max_words", drop=True), ["max_words is None"]),
    "max_words is a text": (change(CONFIG, "max_words", to="40"), ["max_words is '40'; it must be a whole"]),
    "max_tokens is 0": (change(CONFIG, "max_tokens", to=0), ["max_tokens is 0; it must be a whole number"]),
    "max_tokens is true": (change(CONFIG, "max_tokens", to=True), ["max_tokens is True"]),
    "prompt is a number": (change(CONFIG, "prompt", to=3), ["prompt is 3; it must be text"]),
    "unknown field": (change(CONFIG, "model", "embed_dims", to=3), ["embed_dims is not a field"]),
    "text is a list": (change(CONFIG, "model", "text", to=[1]), ["config.json", "text is [1]"]),
    "vision is null": (change(CONFIG, "model", "vision", to=None), ["config.json", "vision is None"]),
    "unknown tower": (
        change(CONFIG, "model", "vision", "name", to="resnet10q"),
        ["config.json", "resnet10q"],
    ),
    "tower is a path": (change(CONFIG, "model", "vision", "name", to="/etc/passwd"), ["config.json"]),
    "heads do not divide": (change(CONFIG, "model", "text", "heads", to=5), ["config.json"]),
    "no heads": (change(CONFIG, "model", "text", "heads", to=0), ["config.json"]),
    "unknown part": (change(CONFIG, "model", "parts", to=["everything"]), ["config.json"]),
    "unknown box head": (change(CONFIG, "model", "box_head", to="circle"), ["config.json", "box_head"]),
    "options are a list": (change(CONFIG, "model", "vision", "options", to=[1]), ["config.json"]),
    "unknown option": (change(CONFIG, "model", "vision", "options", "wings", to=2), ["config.json"]),
    "another width": (
        change(CONFIG, "model", "text", "width", to=16),
        ["model.safetensors does not fit config.json: it has other shapes: ", "(76, 32), not (76, 16)"],
    ),
    "more layers": (
        change(CONFIG, "model", "text", "text_layers", to=3),
        ["model.safetensors does not fit config.json: it lacks text.layers.2."],
    ),
    "fewer parts": (
        change(CONFIG, "model", "parts", to=["contrastive"]),
        ["model.safetensors does not fit config.json: it has unknown "],
    ),
    "missing tensor": (edit_tensors(lambda state: state.pop(BIAS)), [f"it lacks {BIAS}"]),
    "unknown tensor": (
        edit_tensors(lambda state: state.update(wings=torch.ones(2))),
        ["it has unknown wings"],
    ),
    "another shape": (
        edit_tensors(lambda state: state.update({BIAS: torch.ones(3)})),
        [f"other shapes: {BIAS} (3,), not (16,)"],
    ),
    "whole numbers": (
        edit_tensors(lambda state: state.update({BIAS: torch.ones(16, dtype=torch.int64)})),
        [f"other numbers: {BIAS} torch.int64, not torch.float32"],
    ),
    "no tensors": (edit_tensors(lambda state: state.clear()), ["it lacks ", "more"]),
    "header too long": (header(b"{}", 10**9), [TENSORS]),
    "header of 2**63": (header(b"{}", 2**63), [TENSORS]),
    "header is no JSON": (header(b"{a:b}"), [TENSORS]),
    "header is a list": (header(b"[1, 2]"), [TENSORS]),
    "offsets outside": (
        header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,9999]}}'),
        [TENSORS],
    ),
    "unknown dtype": (header(b'{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}'), [TENSORS]),
    "a pickle": (lambda folder: torch.save({"a": torch.ones(2)}, folder / TENSORS), [TENSORS]),
    "no vocabulary": (empty_vocabulary, [TOKENIZER, "vocabulary"]),
    "vocabulary is a list": (change(TOKENIZER, "model", "vocab", to=[1, 2]), [TOKENIZER]),
    "another kind": (change(TOKENIZER, "model", "type", to="Unigram"), [TOKENIZER]),
    "larger vocabulary": (
        change(TOKENIZER, "model", "vocab", "wings", to=200),
        ["tokenizer.json has 201 tokens", "another model's"],
    ),
    "version from the future": (change(TOKENIZER, "version", to="9.0"), [TOKENIZER]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_in_one_sentence(name: str, undamaged: Path, tmp_path: Path) -> None:
    damage, parts = DAMAGES[name]
    folder = Path(shutil.copytree(undamaged, tmp_path / "model"))
    damage(folder)
    with pytest.raises(XVLMError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message and all(part in message for part in parts), message
    assert "\n" not in message and len(message) < 600, message


def test_an_undamaged_folder_is_read(undamaged: Path) -> None:
    """The undamaged folder passes, so the other tests test the damage."""
    loaded = load_model(undamaged)
    assert torch.equal(loaded.model.state_dict()[BIAS], tiny_loaded("cnn").model.state_dict()[BIAS])
