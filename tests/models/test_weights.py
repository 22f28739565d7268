"""Initial weights from BERT, RoBERTa and image encoders: every tensor is used, or named with a reason."""

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
from xvlm.common.errors import InputError, MissingFileError
from xvlm.models.checkpoints import weight_files
from xvlm.models.checkpoints.initial_weights import bert_config, load_bert, load_vision_by_order
from xvlm.models.checkpoints.weight_files import bert_folder, find_weights, read_tensors
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import XVLM, ModelConfig, build_model

D, V, LAYERS, INNER = 16, 40, 4, 24


def bert_tensors(kind: str = "bert", prefix: str = "", old_names: bool = False) -> dict[str, Tensor]:
    """Return the random state dict of a BERT or RoBERTa with its language head."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = {
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
            state[f"encoder.layer.{layer}.{name}.weight"] = random(*shape)
            state[f"encoder.layer.{layer}.{name}.bias"] = random(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            state[f"encoder.layer.{layer}.{name}.weight"] = random(D)
            state[f"encoder.layer.{layer}.{name}.bias"] = random(D)
    state = {f"{prefix}{name}": value for name, value in state.items()}
    if kind == "bert":
        head, norm = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
        state |= {"cls.predictions.bias": random(V), "cls.predictions.decoder.weight": random(V, D)}
        state |= {"cls.seq_relationship.weight": random(2, D), "cls.seq_relationship.bias": random(2)}
    else:
        head, norm = "lm_head.dense", "lm_head.layer_norm"
        state |= {"lm_head.bias": random(V), "lm_head.decoder.weight": random(V, D)}
    state |= {f"{head}.weight": random(D, D), f"{head}.bias": random(D)}
    state |= {f"{norm}.weight": random(D), f"{norm}.bias": random(D)}
    if old_names:
        state = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for name, value in state.items()
        }
    return state


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
    loaded, unused = load_bert(model, folder)
    own = model.state_dict()
    # The text encoder has layers 0 and 1, the cross-modal encoder layer 2; layer 3 is not needed.
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
    assert torch.equal(own["mlm.norm.weight"], plain[head])
    # No tensor is lost.
    used = len(tensors) - len(unused)
    merged = 2 * 2 * 3  # weights and biases of query, key and value in 3 layers become one
    assert len(loaded) == used - merged
    assert {name.split(".")[2] for name in unused if name.startswith("encoder.layer.")} == {"3"}
    assert all(unused.values())
    new = {name for name, _ in model.named_parameters() if name.startswith(("text.", "fusion."))} - loaded
    assert new and all(".cross" in name for name in new)
    assert {name for name, _ in model.named_parameters() if name.startswith("mlm.")} <= loaded


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


def test_layers_beyond_the_checkpoint_are_random(tmp_path: Path) -> None:
    """A BERT of 4 layers initializes the first four of 6."""
    folder = write_bert(tmp_path, bert_tensors())
    model = model_for(folder, text_layers=4, cross_layers=2)
    loaded, _ = load_bert(model, folder)
    assert not any(name.startswith("fusion.") for name in loaded)


def test_layers_may_be_evenly_spaced_up_to_the_last(tmp_path: Path) -> None:
    """X-VLM-large is initialized so: after the text layers, every other layer is used."""
    folder = write_bert(tmp_path, bert_tensors())
    model = model_for(folder, text_layers=2, cross_layers=1)
    _, unused = load_bert(model, folder, evenly_spaced=True)
    last = bert_tensors()["encoder.layer.3.output.dense.weight"]
    assert torch.equal(model.state_dict()["fusion.layers.0.mlp.down.weight"], last)
    assert {name.split(".")[2] for name in unused if name.startswith("encoder.layer.")} == {"2"}


def test_a_model_without_masked_language_modelling_takes_no_language_head(tmp_path: Path) -> None:
    folder = write_bert(tmp_path, bert_tensors())
    config = replace(model_for(folder).config, heads=("matching",))
    loaded, unused = load_bert(build_model(config), folder)
    assert loaded and not any(name.startswith("mlm.") for name in loaded)
    assert "cls.predictions.transform.dense.weight" in unused


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_a_wrong_tensor_is_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    tensors = bert_tensors() | {name: value for name, value in change.items() if value is not None}
    tensors = {name: value for name, value in tensors.items() if change.get(name, value) is not None}
    folder = write_bert(tmp_path, tensors)
    model = model_for(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_bert(model, folder)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []


def vision_file(
    path: Path, extra: dict[str, Tensor] | None = None, drop: int = 0
) -> tuple[Path, list[Tensor]]:
    """Write a state dict in the order of a timm model under other names."""
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
    load_vision_by_order(model.vision.tower(), path.parent)  # the only file of the folder


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


def test_where_weights_are_searched(tmp_path: Path) -> None:
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
    """Python imports `a` to find `a.b`, so only top-level names are allowed."""
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
def test_names_in_a_file_are_not_trusted(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "download", None)
    for find in (find_weights, bert_folder):
        with pytest.raises(InputError, match=r"a file names .* type the name yourself"):
            find(spec, trusted=False)


def test_names_that_a_file_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bert(tmp_path / "data" / "bert", bert_tensors())
    assert bert_folder("data/bert", trusted=False) == Path("data/bert")
    downloads: list[str] = []

    def download(name: str, _: Any) -> Path:
        downloads.append(name)
        return tmp_path / "data"

    monkeypatch.setattr(weight_files, "download", download)
    for name in ("bert-base-uncased", "roberta-base", "google-bert/bert-base-uncased"):
        assert bert_folder(name, trusted=False) == tmp_path / "data" / "bert"
    assert downloads == ["bert-base-uncased", "roberta-base", "google-bert/bert-base-uncased"]
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
    "content", [3, [torch.ones(1)], {"a": 1}, {1: torch.ones(1)}, {"a": {"b": torch.ones(1)}}]
)
def test_a_file_of_something_else_is_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no dictionary of tensors by name"):
        read_tensors(tmp_path / "a.pth")


def test_a_nested_pickle_is_refused_at_once(tmp_path: Path) -> None:
    """The file is small, but its text would fill the memory; the error does not contain it."""
    nested: Any = []
    for _ in range(60):
        nested = [nested, nested]
    torch.save({"a": nested}, tmp_path / "a.pth")
    start = time.monotonic()
    with pytest.raises(InputError, match="no dictionary of tensors by name"):
        read_tensors(tmp_path / "a.pth")
    assert time.monotonic() - start < 5


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
    assert read_tensors(tmp_path)["a"].item() == 2  # safetensors are preferred to a pickle
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"found model\.safetensors, other\.safetensors"):
        read_tensors(tmp_path)


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()
