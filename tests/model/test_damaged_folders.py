"""A damaged model folder is refused in one sentence that names the file and what is wrong with it."""

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
from xvlm.errors import XVLMError
from xvlm.model.folder import load_model, save_model

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_loaded("cnn"), tmp_path_factory.mktemp("folder") / "model")


def written(name: str, content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return damage


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def a_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def changed(name: str, *path: str, to: Any = None, drop: bool = False) -> Damage:
    """One value of a JSON file is another one, or is gone."""

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


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return damage


def no_vocabulary(folder: Path) -> None:
    for path, empty in ((("model", "vocab"), {}), (("added_tokens",), [])):
        changed(TOKENIZER, *path, to=empty)(folder)


def header(text: bytes, length: int | None = None) -> Damage:
    """A file of tensors with this header."""
    size = struct.pack("<Q", len(text) if length is None else length)
    return written("model.safetensors", size + text + b"\0" * 64)


CONFIG, TENSORS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
BIAS = "contrastive.vision.bias"

DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    **{f"no {name}": (gone(name), [f"{name} not in it"]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{f"{name} is a folder": (a_folder(name), [name]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{f"empty {name}": (written(name, ""), [name]) for name in (CONFIG, TENSORS, TOKENIZER)},
    **{
        f"{name} cut at {share}": (cut(name, share), [name])
        for name in (CONFIG, TENSORS, TOKENIZER)
        for share in (0.01, 0.5, 0.98)
    },
    **{
        f"{name} is noise": (written(name, bytes(range(256)) * 3), [name])
        for name in (CONFIG, TENSORS, TOKENIZER)
    },
    **{
        f"{name} is {text[:9]}": (written(name, text), [name])
        for name in (CONFIG, TOKENIZER)
        for text in ("[]", "3", "null", '"a text"', "{}", "[" * 100_000, "{'format': 1}", "NaN")
    },
    "cut in a line": (written(CONFIG, '{\n "format": 1,\n "model": '), ["config.json", "line 3, column 11"]),
    "format 2": (changed(CONFIG, "format", to=2), ["config.json has format 2; this version reads 1"]),
    "no format": (changed(CONFIG, "format", drop=True), ["config.json has format None"]),
    "format is a list": (changed(CONFIG, "format", to=[1]), ["has format [1]"]),
    "no model": (changed(CONFIG, "model", drop=True), ["model is None; it must be an object"]),
    "model is a list": (changed(CONFIG, "model", to=[]), ["model is []; it must be an object"]),
    "no max_words": (changed(CONFIG, "max_words", drop=True), ["max_words is None"]),
    "max_words is a text": (changed(CONFIG, "max_words", to="40"), ["max_words is '40'; it must be a whole"]),
    "max_tokens is 0": (changed(CONFIG, "max_tokens", to=0), ["max_tokens is 0; it must be a whole number"]),
    "max_tokens is true": (changed(CONFIG, "max_tokens", to=True), ["max_tokens is True"]),
    "prompt is a number": (changed(CONFIG, "prompt", to=3), ["prompt is 3; it must be text"]),
    "unknown field": (changed(CONFIG, "model", "embed_dims", to=3), ["embed_dims is not a field"]),
    "text is a list": (changed(CONFIG, "model", "text", to=[1]), ["config.json", "text is [1]"]),
    "vision is null": (changed(CONFIG, "model", "vision", to=None), ["config.json", "vision is None"]),
    "unknown tower": (
        changed(CONFIG, "model", "vision", "name", to="resnet10q"),
        ["config.json", "resnet10q"],
    ),
    "tower is a path": (changed(CONFIG, "model", "vision", "name", to="/etc/passwd"), ["config.json"]),
    "heads do not divide": (changed(CONFIG, "model", "text", "heads", to=5), ["config.json"]),
    "no heads": (changed(CONFIG, "model", "text", "heads", to=0), ["config.json"]),
    "unknown part": (changed(CONFIG, "model", "parts", to=["everything"]), ["config.json"]),
    "unknown box head": (changed(CONFIG, "model", "box_head", to="circle"), ["config.json", "box_head"]),
    "options are a list": (changed(CONFIG, "model", "vision", "options", to=[1]), ["config.json"]),
    "unknown option": (changed(CONFIG, "model", "vision", "options", "wings", to=2), ["config.json"]),
    "another width": (
        changed(CONFIG, "model", "text", "width", to=16),
        ["model.safetensors does not fit config.json: it has other shapes: ", "(76, 32), not (76, 16)"],
    ),
    "more layers": (
        changed(CONFIG, "model", "text", "text_layers", to=3),
        ["model.safetensors does not fit config.json: it lacks text.layers.2."],
    ),
    "fewer parts": (
        changed(CONFIG, "model", "parts", to=["contrastive"]),
        ["model.safetensors does not fit config.json: it has unknown "],
    ),
    "missing tensor": (tensors(lambda found: found.pop(BIAS)), [f"it lacks {BIAS}"]),
    "unknown tensor": (tensors(lambda found: found.update(wings=torch.ones(2))), ["it has unknown wings"]),
    "another shape": (
        tensors(lambda found: found.update({BIAS: torch.ones(3)})),
        [f"other shapes: {BIAS} (3,), not (16,)"],
    ),
    "whole numbers": (
        tensors(lambda found: found.update({BIAS: torch.ones(16, dtype=torch.int64)})),
        [f"other numbers: {BIAS} torch.int64, not torch.float32"],
    ),
    "no tensors": (tensors(lambda found: found.clear()), ["it lacks ", "more"]),
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
    "no vocabulary": (no_vocabulary, [TOKENIZER, "vocabulary"]),
    "vocabulary is a list": (changed(TOKENIZER, "model", "vocab", to=[1, 2]), [TOKENIZER]),
    "another kind": (changed(TOKENIZER, "model", "type", to="Unigram"), [TOKENIZER]),
    "larger vocabulary": (
        changed(TOKENIZER, "model", "vocab", "wings", to=200),
        ["tokenizer.json has 201 tokens", "another model's"],
    ),
    "version from the future": (changed(TOKENIZER, "version", to="9.0"), [TOKENIZER]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_named_in_one_sentence(name: str, whole: Path, tmp_path: Path) -> None:
    damage, parts = DAMAGES[name]
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    damage(folder)
    with pytest.raises(XVLMError) as caught:
        load_model(folder)
    told = str(caught.value)
    assert str(folder) in told and all(part in told for part in parts), told
    assert "\n" not in told and len(told) < 600, told


def test_a_whole_folder_is_read(whole: Path) -> None:
    """The check of the checks."""
    loaded = load_model(whole)
    assert torch.equal(loaded.model.state_dict()[BIAS], tiny_loaded("cnn").model.state_dict()[BIAS])
