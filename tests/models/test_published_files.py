"""Checkpoints in the forms that frameworks write, damaged files, and hostile ones."""

from __future__ import annotations

import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import tiny_config, tiny_tokenizer
from xvlm.cli import main
from xvlm.common.errors import InputError, MissingFileError, XVLMError
from xvlm.models.checkpoints.convert import convert, tokenizer_for
from xvlm.models.checkpoints.folder import load_model
from xvlm.models.checkpoints.published_files import read_checkpoint
from xvlm.models.checkpoints.published_names import to_published
from xvlm.models.checkpoints.published_sizes import UnseenSizes, config_of, vision_config_of
from xvlm.models.xvlm import build_model

UNSEEN = UnseenSizes(text_heads=4, vision_heads=3, local_depth=2)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """The state dict of a tiny DeiT model under the published keys."""
    torch.manual_seed(0)
    config = tiny_config("vit", (64, 64), vocab_size=tiny_tokenizer().vocab_size)
    return to_published(build_model(config))


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    tiny_tokenizer().save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def add_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def shifted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return other weights, as a running average has; constants stay."""
    return {n: v + 1 if v.is_floating_point() else v for n, v in tensors.items()}


Tree = dict[str, Any]
FORMS: dict[str, tuple[Callable[[dict[str, Tensor]], Tree], str]] = {
    "published": (lambda t: {"model": t, "config": {"max_tokens": 30}}, ""),
    "bare": (lambda t: t, ""),
    "ddp": (lambda t: {"model": add_prefix(t, "module.")}, "'module.' was taken off"),
    "compiled": (lambda t: {"model": add_prefix(t, "_orig_mod.")}, ""),
    "both": (lambda t: {"model": add_prefix(t, "module._orig_mod.")}, "'module.' was taken off"),
    "lightning": (
        lambda t: {
            "epoch": 3,
            "pytorch-lightning_version": "2.5",
            "state_dict": {**add_prefix(t, "model."), "criterion.weight": torch.ones(2)},
            "optimizer_states": [{"state": {}}],
        },
        "1 tensors outside the model were left out",
    ),
    "deepspeed": (lambda t: {"module": t, "optimizer": None, "global_steps": 7}, "'module' were taken"),
    "nested": (lambda t: {"state_dict": {"model": add_prefix(t, "net.")}}, "'net.' was taken off"),
    "ema beside": (lambda t: {"model": t, "model_ema": shifted(t)}, "'model_ema'; --ema takes it"),
    "ema first": (lambda t: {"ema": shifted(t), "model": t}, "'ema'; --ema takes it"),
    "ema in names": (
        lambda t: {"state_dict": {**add_prefix(t, "model."), **add_prefix(shifted(t), "ema_model.")}},
        "'ema_model.'; --ema takes it",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_known_forms_are_unwrapped(
    form: str, tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, note = FORMS[form]
    torch.save(make(tensors), tmp_path / "file.pth")
    convert(tmp_path / "file.pth", tmp_path / "out", UNSEEN, tokenizer)
    back = to_published(load_model(tmp_path / "out").model)
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    err = capsys.readouterr().err
    assert note in err if note else err == "" or "--ema" not in err


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("ema")])
def test_the_option_ema_reads_the_running_average(
    form: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(FORMS[form][0](tensors), tmp_path / "file.pth")
    averages = read_checkpoint(tmp_path / "file.pth", ema=True).tensors
    assert averages.keys() == tensors.keys()
    assert all(torch.equal(averages[name], value) for name, value in shifted(tensors).items())
    torch.save({"model": tensors}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="no running average"):
        read_checkpoint(tmp_path / "none.pth", ema=True)


def test_files_of_other_formats(tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str) -> None:
    """Files from before PyTorch 1.6, and safetensors with any suffix, without constants and tied copies."""
    torch.save({"model": tensors}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    left_out = ("position_ids", "word_embeddings.weight", "decoder.bias")
    saved = {name: value.clone() for name, value in tensors.items() if not name.endswith(left_out)}
    save_file(saved, tmp_path / "new.safetensors")
    save_file(add_prefix(saved, "module."), tmp_path / "misnamed.pth")
    for name in ("old.pth", "new.safetensors", "misnamed.pth"):
        convert(tmp_path / name, tmp_path / "out", UNSEEN, tokenizer)
        back = to_published(load_model(tmp_path / "out").model)
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[key], value) for key, value in tensors.items()), name


def test_half_precision_becomes_float32(tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str) -> None:
    half = {n: v.half() if v.is_floating_point() else v for n, v in tensors.items()}
    torch.save({"module": half}, tmp_path / "half.pt")
    convert(tmp_path / "half.pt", tmp_path / "out", UNSEEN, tokenizer)
    back = to_published(load_model(tmp_path / "out").model)
    assert back["vision_proj.weight"].dtype == torch.float32
    assert torch.equal(back["vision_proj.weight"], half["vision_proj.weight"].float())


def laughs(depth: int) -> list[Any]:
    """Return a list of 2 ** depth elements that takes a few bytes in a pickle (billion laughs)."""
    nested: list[Any] = ["x"]
    for _ in range(depth):
        nested = [nested, nested]
    return nested


def expanded() -> Tensor:
    return torch.zeros(1).expand(2**40)


def damaged_files(folder: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Write damaged files; return a part of the error of each, by name."""
    torch.save({"model": tensors}, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    torch.save({"model": tensors}, folder / "old.pth", _use_new_zipfile_serialization=False)
    old = (folder / "old.pth").read_bytes()
    contents: dict[str, bytes] = {
        "cut.pth": whole[:5000],
        "one_less.pth": whole[:-1],
        "cut_old.pth": old[: len(old) // 2],
        "cut_early.pth": old[:40],
        "empty.pth": b"",
        "text.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "plain.pth": pickle.dumps({"a": 1}),
        "cut.safetensors": (10_000).to_bytes(8, "little") + b"{}",
        "huge.safetensors": (2**62).to_bytes(8, "little") + b"{",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/data.pkl", b"0" * 10_000_000)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "claims.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    trees: dict[str, Any] = {
        "list.pth": [1, 2],
        "nothing.pth": {},
        "epochs.pth": {"epoch": 3},
        "numbers.pth": {"model": {"temp": 0.07}},
        "keys.pth": {"model": {3: torch.zeros(1)}},
        "expanded.pth": {"model": {"vision_encoder.cls_token": expanded()}},
        "laughs.pth": {"model": dict(tensors), "config": {"a": laughs(60)}},
        "laughing_key.pth": {"state": laughs(60)},
        "two.pth": {"state_dict": {**add_prefix(tensors, "a."), **add_prefix(tensors, "b.")}},
        "nan.pth": {"model": {**tensors, "temp": torch.tensor(float("nan"))}},
        "complex.pth": {"model": {**tensors, "temp": torch.tensor(1j)}},
        "resnet.pth": {"conv1.weight": torch.zeros(3, 3)},
    }
    for name, tree in trees.items():
        torch.save(tree, folder / name)
    return {
        "cut.pth": "no readable end",
        "one_less.pth": "no readable end",
        "cut_old.pth": "damaged",
        "cut_early.pth": "damaged",
        "empty.pth": "is empty",
        "text.pth": "no PyTorch checkpoint",
        "plain.pth": "no PyTorch checkpoint",
        "cut.safetensors": "damaged safetensors",
        "huge.safetensors": "damaged safetensors",
        "claims.safetensors": "damaged safetensors",
        "other.zip": "no data.pkl",
        "bomb.pth": "claims to hold more bytes",
        "list.pth": "holds a list",
        "nothing.pth": "no published checkpoint",
        "epochs.pth": "no published checkpoint",
        "numbers.pth": "no published checkpoint",
        "keys.pth": "names of its tensors",
        "expanded.pth": "no ordinary tensor",
        "laughs.pth": "too large or too deep",
        "laughing_key.pth": "no published checkpoint",
        "nan.pth": "temp holds numbers that are not finite",
        "complex.pth": "temp is no ordinary tensor",
        "two.pth": "several models",
        "resnet.pth": "no checkpoint of the published X-VLM",
        "missing.pth": "is no file",
        "folder": "is a folder",
    }


def test_a_damaged_file_is_one_sentence_that_names_it(
    tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    expected = damaged_files(tmp_path, tensors) | {"pipe.pth": "is no file"}
    options = ["--tokenizer", tokenizer, "--text-heads", "4", "--vision-heads", "3", "--local-depth", "2"]
    for name, message in expected.items():
        start = time.monotonic()
        assert main(["convert", str(tmp_path / name), str(tmp_path / "out"), *options]) == 2, name
        err = capsys.readouterr().err
        assert message in err and (name == "resnet.pth" or str(tmp_path / name) in err), (name, err)
        assert "Traceback" not in err and len(err) < 1000 and err.count("\n") <= 2
        assert time.monotonic() - start < 10, name
    assert not (tmp_path / "out").exists()


def test_impossible_sizes_are_refused(tensors: dict[str, Tensor]) -> None:
    """The error names a missing layer, and tensors with other axes."""
    block = "vision_encoder.blocks.1."
    far = {n.replace(block, "vision_encoder.blocks.999999999."): v for n, v in tensors.items()}
    with pytest.raises(InputError, match=r"blocks of the ViT are incomplete"):
        config_of(far, UNSEEN)
    for name in (
        "text_encoder.bert.embeddings.word_embeddings.weight",
        "text_encoder.bert.embeddings.position_embeddings.weight",
        "text_encoder.bert.encoder.layer.0.intermediate.dense.weight",
        "vision_encoder.patch_embed.proj.weight",
        "vision_encoder.pos_embed",
        "vision_proj.weight",
    ):
        for value in (torch.zeros(()), torch.zeros(0, 4), torch.zeros(3)):
            with pytest.raises(XVLMError, match=name.removeprefix("vision_encoder.").replace(".", r"\.")):
                config_of({**tensors, name: value}, UNSEEN)
    for wrong in (replace(UNSEEN, text_heads=0), replace(UNSEEN, local_depth=-1)):
        with pytest.raises(InputError, match="must be 1 or more"):
            config_of(tensors, wrong)


SWIN_TABLE = "vision_encoder.layers.0.blocks.0.attn.relative_position_bias_table"


def test_a_swin_that_would_fill_the_memory_is_refused() -> None:
    """Its index of relative positions has (window ** 2) ** 2 entries: 5 TB for a window of 1000."""
    stub = {
        "vision_encoder.patch_embed.norm.weight": torch.zeros(8),
        "vision_encoder.patch_embed.proj.weight": torch.zeros(8, 3, 4, 4),
        SWIN_TABLE: torch.zeros(1, 1).expand(1999**2, 1),
        "text_proj.weight": torch.zeros(4, 4),
    }
    with pytest.raises(InputError, match="windows of 1000 patches"):
        vision_config_of(stub, UnseenSizes())


@pytest.mark.parametrize(
    "name", ["python:evil", "https://host/x", "a::b", "../up", "/etc", "a/b/c", {"a": 1}]
)
def test_the_checkpoint_may_name_only_a_model_on_the_hub(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    monkeypatch.setattr("xvlm.models.checkpoints.convert.bert_folder", downloads.append)
    with pytest.raises(InputError, match="no name of a model on the hub"):
        tokenizer_for("", {"text_encoder": name})
    assert not downloads


def test_published_configurations_name_models_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """They say data/bert-base-uncased, a folder of the authors."""
    downloads: list[str] = []

    def none(spec: str) -> Path:
        downloads.append(spec)
        raise MissingFileError("not here")

    monkeypatch.setattr("xvlm.models.checkpoints.convert.bert_folder", none)
    for name in ("data/bert-base-uncased", "roberta-base", "google/bert_uncased"):
        with pytest.raises(MissingFileError, match="--tokenizer"):
            tokenizer_for("", {"text_encoder": name})
    assert downloads == ["bert-base-uncased", "roberta-base", "google/bert_uncased"]


@pytest.mark.parametrize("config", [{"max_tokens": "many"}, {"max_tokens": 10**9}, {"prompt": 3}])
def test_impossible_lengths_are_refused(
    config: dict[str, Any], tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str
) -> None:
    torch.save({"model": tensors, "config": config}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="max_tokens"):
        convert(tmp_path / "file.pth", tmp_path / "out", UNSEEN, tokenizer)


def test_numbers_that_json_lacks_become_text(
    tensors: dict[str, Tensor], tmp_path: Path, tokenizer: str
) -> None:
    config = {"lr": float("nan"), "big": float("inf"), "steps": 3, "names": ("a", "b"), 5: None}
    torch.save({"model": tensors, "config": config}, tmp_path / "file.pth")
    convert(tmp_path / "file.pth", tmp_path / "out", UNSEEN, tokenizer)
    text = (tmp_path / "out" / "config.json").read_text()
    published = json.loads(text, parse_constant=lambda name: pytest.fail(name))["published"]
    assert published == {"lr": "nan", "big": "inf", "steps": 3, "names": ["a", "b"], "5": None}
