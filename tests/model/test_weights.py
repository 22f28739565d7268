"""First weights from BERT, RoBERTa and vision checkpoints: every tensor is used, or named with a reason."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import tiny_config
from xvlm.errors import InputError, MissingFileError
from xvlm.model import weights as weights_module
from xvlm.model.text import TextConfig
from xvlm.model.weights import (
    bert_config,
    bert_folder,
    find_weights,
    load_bert,
    load_vision_by_order,
    read_tensors,
)
from xvlm.model.xvlm import XVLM, ModelConfig, build_model

D, V, LAYERS, INNER = 16, 40, 4, 24


def bert_tensors(kind: str = "bert", prefix: str = "", old_names: bool = False) -> dict[str, Tensor]:
    """What a checkpoint of that kind holds, its head for masked words included; random."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = {
        "embeddings.word_embeddings.weight": random(V, D),
        "embeddings.position_embeddings.weight": random(34, D),
        "embeddings.token_type_embeddings.weight": random(2 if kind == "bert" else 1, D),
        "embeddings.LayerNorm.weight": random(D),
        "embeddings.LayerNorm.bias": random(D),
        "embeddings.position_ids": torch.arange(34)[None],
        "pooler.dense.weight": random(D, D),
        "pooler.dense.bias": random(D),
    }
    shapes = {
        **{f"attention.self.{name}": (D, D) for name in ("query", "key", "value")},
        "attention.output.dense": (D, D),
        "intermediate.dense": (INNER, D),
        "output.dense": (D, INNER),
    }
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            found[f"encoder.layer.{layer}.{name}.weight"] = random(*shape)
            found[f"encoder.layer.{layer}.{name}.bias"] = random(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"encoder.layer.{layer}.{name}.weight"] = random(D)
            found[f"encoder.layer.{layer}.{name}.bias"] = random(D)
    found = {f"{prefix}{name}": value for name, value in found.items()}
    if kind == "bert":
        head, norm = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
        found |= {"cls.predictions.bias": random(V), "cls.predictions.decoder.weight": random(V, D)}
        found |= {"cls.seq_relationship.weight": random(2, D), "cls.seq_relationship.bias": random(2)}
    else:
        head, norm = "lm_head.dense", "lm_head.layer_norm"
        found |= {"lm_head.bias": random(V), "lm_head.decoder.weight": random(V, D)}
    found |= {f"{head}.weight": random(D, D), f"{head}.bias": random(D)}
    found |= {f"{norm}.weight": random(D), f"{norm}.bias": random(D)}
    if old_names:
        found = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for name, value in found.items()
        }
    return found


def write_bert(folder: Path, tensors: dict[str, Tensor], kind: str = "bert", **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "model_type": kind,
        "vocab_size": V,
        "hidden_size": D,
        "num_attention_heads": 2,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 34,
        "pad_token_id": 1 if kind == "roberta" else 0,
        "layer_norm_eps": 1e-5 if kind == "roberta" else 1e-12,
        "hidden_dropout_prob": 0.1,
        "type_vocab_size": 1 if kind == "roberta" else 2,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def model_for(folder: Path, text_layers: int = 2, cross_layers: int = 1) -> XVLM:
    text = bert_config(folder, text_layers, cross_layers)
    return build_model(ModelConfig(tiny_config().vision, text, embed_dim=8))


FORMS: list[tuple[str, str, bool]] = [
    ("bert", "", False),
    ("bert", "bert.", True),
    ("roberta", "roberta.", False),
]


@pytest.mark.parametrize(("kind", "prefix", "old_names"), FORMS)
def test_every_tensor_is_used_or_listed(kind: str, prefix: str, old_names: bool, tmp_path: Path) -> None:
    tensors = bert_tensors(kind, prefix, old_names)
    folder = write_bert(tmp_path, tensors, kind)
    model = model_for(folder)
    given, unused = load_bert(model, folder)
    own = model.state_dict()
    # text encoder: layers 0 and 1; cross-modal: layer 2; layer 3 is not needed
    plain = bert_tensors(kind)
    for ours, theirs in (
        ("text.layers.1.attention.out.weight", "encoder.layer.1.attention.output.dense.weight"),
        ("fusion.layers.0.mlp.down.bias", "encoder.layer.2.output.dense.bias"),
        ("fusion.layers.0.mlp_norm.weight", "encoder.layer.2.output.LayerNorm.weight"),
        ("text.embedding.norm.bias", "embeddings.LayerNorm.bias"),
    ):
        assert torch.equal(own[ours], plain[theirs]), ours
    qkv = torch.cat([plain[f"encoder.layer.2.attention.self.{n}.weight"] for n in ("query", "key", "value")])
    assert torch.equal(own["fusion.layers.0.attention.qkv.weight"], qkv)
    head = "cls.predictions.transform.LayerNorm.weight" if kind == "bert" else "lm_head.layer_norm.weight"
    assert torch.equal(own["masked.norm.weight"], plain[head])
    # nothing is lost on the way
    used = len(tensors) - len(unused)
    merged = 2 * 2 * 3  # query, key, value of 3 layers, weight and bias, become one
    assert len(given) == used - merged
    assert {name.split(".")[2] for name in unused if name.startswith("encoder.layer.")} == {"3"}
    assert all(unused.values())
    new = {name for name, _ in model.named_parameters() if name.startswith(("text.", "fusion."))} - given
    assert new and all(".cross" in name for name in new)
    assert {name for name, _ in model.named_parameters() if name.startswith("masked.")} <= given


def test_sizes_come_from_the_checkpoint(tmp_path: Path) -> None:
    roberta = bert_config(write_bert(tmp_path, bert_tensors("roberta"), "roberta"), 3, 1, "mean")
    assert roberta == TextConfig(
        V, D, 2, INNER, 3, 1, 34, first_position=2, norm_eps=1e-5, type_vocab_size=1, pooling="mean"
    )
    assert bert_config(write_bert(tmp_path, bert_tensors(), "bert"), 3, 1).first_position == 0
    with pytest.raises(ValueError, match=r"text_layers is 5; .* has 4 layers"):
        bert_config(tmp_path, 5, 1)
    write_bert(tmp_path, bert_tensors(), "gpt2")
    with pytest.raises(ValueError, match="holds a gpt2; the text stack takes bert or roberta"):
        bert_config(tmp_path, 2, 1)


def test_layers_beyond_the_checkpoint_are_new(tmp_path: Path) -> None:
    """A 4-layer BERT in a stack of 6: the last two learn from nothing."""
    folder = write_bert(tmp_path, bert_tensors())
    model = model_for(folder, text_layers=4, cross_layers=2)
    given, _ = load_bert(model, folder)
    assert not any(name.startswith("fusion.") for name in given)


def test_layers_may_be_spread_up_to_the_last(tmp_path: Path) -> None:
    """As X-VLM-large begins: after the text layers, every other one of what is left."""
    folder = write_bert(tmp_path, bert_tensors())
    model = model_for(folder, text_layers=2, cross_layers=1)
    _, unused = load_bert(model, folder, spread=True)
    last = bert_tensors()["encoder.layer.3.output.dense.weight"]
    assert torch.equal(model.state_dict()["fusion.layers.0.mlp.down.weight"], last)
    assert {name.split(".")[2] for name in unused if name.startswith("encoder.layer.")} == {"2"}


def test_a_model_that_hides_no_words_takes_no_head_for_them(tmp_path: Path) -> None:
    folder = write_bert(tmp_path, bert_tensors())
    config = replace(model_for(folder).config, parts=("matching",))
    given, unused = load_bert(build_model(config), folder)
    assert given and not any(name.startswith("masked.") for name in given)
    assert "cls.predictions.transform.dense.weight" in unused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder.layer.1.attention.self.key.bias": None}, r"text\.layers\.1\.attention\.qkv\.bias"),
        ({"encoder.layer.2.output.dense.weight": None}, r"fusion\.layers\.0\.mlp\.down\.weight"),
        ({"embeddings.word_embeddings.weight": None}, r"text\.embedding\.token\.weight"),
        (
            {"encoder.layer.0.crossattention.self.key.weight": torch.ones(2)},
            "unknown tensor encoder.layer.0.cross",
        ),
        (
            {"encoder.layer.0.attention.self.rotary": torch.ones(2)},
            "unknown tensor encoder.layer.0.attention",
        ),
        ({"projector.weight": torch.ones(2)}, "unknown tensor projector.weight"),
        ({"embeddings.LayerNorm.weight": torch.ones(D + 1)}, r"text\.embedding\.norm\.weight is \(17,\)"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], said: str, tmp_path: Path) -> None:
    tensors = bert_tensors() | {name: value for name, value in change.items() if value is not None}
    tensors = {name: value for name, value in tensors.items() if change.get(name, value) is not None}
    folder = write_bert(tmp_path, tensors)
    model = model_for(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        load_bert(model, folder)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []


def vision_file(
    path: Path, extra: dict[str, Tensor] | None = None, drop: int = 0
) -> tuple[Path, list[Tensor]]:
    """A state dict in a tower's order under names of its own."""
    torch.manual_seed(3)
    tower = timm.create_model("resnet10t", num_classes=0, **tiny_config().vision.options)
    values = [torch.rand_like(v) if v.is_floating_point() else v + 7 for v in tower.state_dict().values()]
    values = values[: len(values) - drop]
    torch.save({**{f"theirs.{i}": value for i, value in enumerate(values)}, **(extra or {})}, path)
    return path, values


def test_vision_weights_by_order(tmp_path: Path) -> None:
    path, values = vision_file(
        tmp_path / "tower.pth", {"_fc.weight": torch.ones(3), "classifier.1.bias": torch.ones(3)}
    )
    model = build_model(tiny_config())
    load_vision_by_order(model.vision.tower(), path)
    own = list(model.vision.tower().state_dict().values())
    assert len(own) == len(values) and all(torch.equal(a, b) for a, b in zip(own, values, strict=True))
    load_vision_by_order(model.vision.tower(), path.parent)  # the one file of the folder


def test_vision_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tower = build_model(tiny_config()).vision.tower()
    path, values = vision_file(tmp_path / "more.pth", {"neck.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"left over: neck\.weight"):
        load_vision_by_order(tower, path)
    path, _ = vision_file(tmp_path / "less.pth", drop=1)
    with pytest.raises(ValueError, match=f"{len(values) - 1} tensors for {len(values)}"):
        load_vision_by_order(tower, path)
    path, _ = vision_file(tmp_path / "first.pth")
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "theirs.0": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"theirs\.0 is \(2,\), conv1\.0\.weight is \(\d+, 3, 3, 3\)"):
        load_vision_by_order(tower, path)
    last = f"theirs.{len(values) - 1}"
    torch.save({**tensors, last: torch.ones(2, 2)}, path)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    with pytest.raises(ValueError, match=rf"{last} is \(2, 2\)"):
        load_vision_by_order(tower, path)
    assert [name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])] == []


def test_safetensors_have_no_order(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "tower.safetensors")
    with pytest.raises(ValueError, match="keeps no order"):
        load_vision_by_order(build_model(tiny_config()).vision.tower(), tmp_path)


def test_where_weights_are_looked_for(tmp_path: Path) -> None:
    assert find_weights(str(tmp_path)) == tmp_path
    assert find_weights("python:timm").name == "timm"
    with pytest.raises(FileNotFoundError, match="Python package no_such_package is not installed"):
        find_weights("python:no_such_package")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        bert_folder(str(tmp_path))
    write_bert(tmp_path / "inner", bert_tensors())
    assert bert_folder(str(tmp_path)) == tmp_path / "inner"


def test_a_package_is_found_without_running_any_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python imports `a` to find `a.b`; so only top-level names are taken."""
    for name in ("evil_package", "evil_package/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_weights("python:evil_package") == tmp_path / "evil_package"
    for spec in ("python:evil_package.inner", "python:", "python:../x", "python:a b"):
        with pytest.raises(InputError, match="must name a package by one word"):
            find_weights(spec)
    assert not (tmp_path / "harm").exists() and "evil_package" not in sys.modules


@pytest.mark.parametrize(
    "spec",
    ["python:timm", "https://example.org/x", "evil/repository", "/etc", "..", "../x", "a\0b", "hf-hub:a/b"],
)
def test_what_a_file_names_is_not_trusted(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "snapshot_download", None)
    for find in (find_weights, bert_folder):
        with pytest.raises(InputError, match=r"a file names .* type the name yourself"):
            find(spec, trusted=False)


def test_what_a_file_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bert(tmp_path / "data" / "bert", bert_tensors())
    assert bert_folder("data/bert", trusted=False) == Path("data/bert")
    asked: list[str] = []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(tmp_path / "data")

    monkeypatch.setattr(weights_module, "snapshot_download", download)
    for name in ("bert-base-uncased", "roberta-base", "google-bert/bert-base-uncased"):
        assert bert_folder(name, trusted=False) == tmp_path / "data" / "bert"
    assert asked == ["bert-base-uncased", "roberta-base", "google-bert/bert-base-uncased"]
    (tmp_path / "outside").symlink_to("/usr")
    with pytest.raises(InputError, match="a file names"):
        find_weights("outside", trusted=False)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize("data", [b"", b"x", bytes(5000), b"PK\x03\x04" + bytes(100), b"\x80\x02."])
def test_a_damaged_file_is_named(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_tensors(path)


@pytest.mark.parametrize(
    "found", [3, [torch.ones(1)], {"a": 1}, {1: torch.ones(1)}, {"a": {"b": torch.ones(1)}}]
)
def test_a_file_of_something_else_is_named(found: Any, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no dictionary of tensors by name"):
        read_tensors(tmp_path / "a.pth")


def test_a_nested_pickle_ends_at_once(tmp_path: Path) -> None:
    """Small as a file, its text would fill the memory; it is never written out."""
    nested: Any = []
    for _ in range(60):
        nested = [nested, nested]
    torch.save({"a": nested}, tmp_path / "a.pth")
    begun = time.monotonic()
    with pytest.raises(InputError, match="no dictionary of tensors by name"):
        read_tensors(tmp_path / "a.pth")
    assert time.monotonic() - begun < 5


def test_tensors_are_not_read_from_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (Path("/dev/zero"), tmp_path / "pipe.pth", tmp_path / "none.pth"):
        with pytest.raises(MissingFileError, match="is no file of tensors"):
            read_tensors(path)


def test_a_folder_must_hold_one_file_of_tensors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        read_tensors(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert read_tensors(tmp_path)["a"].item() == 1
    save_file({"a": torch.full((1,), 2.0)}, tmp_path / "model.safetensors")
    assert read_tensors(tmp_path)["a"].item() == 2  # beside its pickle, safetensors are taken
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"found model\.safetensors, other\.safetensors"):
        read_tensors(tmp_path)


class Harmful:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()
