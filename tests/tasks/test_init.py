"""The configuration says what is trained: initial weights decide fields, which cannot have other values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.models.test_weights import bert_tensors, write_bert
from tests.tasks.test_checks import with_fields
from tests.tiny import TEXT, tiny_loaded, tiny_run, tiny_tokenizer
from xvlm.cli import main
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json, to_json, write_json
from xvlm.common.ranges import validate
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks.common.init import InitConfig, resolve_model
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training.run_folder import read_run
from xvlm.training.train import train

FREE = {"model.heads", "model.labels", "model.vision.patch_dropout", "model.text.dropout"}
"""Fields that the run decides although `init.model` is set."""
FREE_OF_BERT = {"text_layers", "cross_layers", "pooling", "dropout"}
"""Fields of `model.text` that the run decides although `init.text` is set."""
OTHER_VALUES: dict[str, Any] = {
    "model.embed_dim": 99,
    "model.temperature": 0.5,
    "model.box_head": "point",
    "model.vision.name": "resnet18",
    "model.vision.image_hw": (32, 32),
    "model.vision.options": {"output_stride": 16},
    "model.vision.mean": (0.1, 0.2, 0.3),
    "model.vision.std": (0.1, 0.2, 0.3),
    "model.vision.local_depth": 3,
    "model.vision.frozen_stem_blocks": 3,
    "model.vision.freeze_batch_norm": True,
    "model.vision.finer_map": True,
    "model.text.vocab_size": 77,
    "model.text.width": 96,
    "model.text.heads": 3,
    "model.text.mlp_width": 99,
    "model.text.text_layers": 5,
    "model.text.cross_layers": 5,
    "model.text.max_positions": 99,
    "model.text.first_position": 1,
    "model.text.norm_eps": 1e-3,
    "model.text.type_vocab_size": 3,
    "model.text.pooling": "mean",
}
"""A value of each field, neither its default nor that of the model folder or the BERT."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and a BERT."""
    folder = tmp_path_factory.mktemp("init")
    save_model(tiny_loaded("cnn"), folder / "model")
    write_bert(folder / "bert", bert_tensors(), vocab_size=40)
    return folder


def leaves(tree: Any, prefix: str) -> dict[str, Any]:
    """Return the fields of a tree of dataclasses by their dotted names."""
    if not is_dataclass(tree):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for one in fields(tree):
        found |= leaves(getattr(tree, one.name), f"{prefix}.{one.name}")
    return found


def from_model(folder: Path, **fields: Any) -> PretrainRun:
    """Return a run that starts from the model folder."""
    run = tiny_run("cnn", steps=1, model=ModelConfig(), init=InitConfig(model=str(folder / "model")))
    return with_fields(run, {name.replace("__", "."): value for name, value in fields.items()})


def test_every_field_of_a_model_is_tested() -> None:
    assert leaves(ModelConfig(), "model").keys() == OTHER_VALUES.keys() | FREE


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_field_that_the_model_folder_decides(name: str, folder: Path) -> None:
    actual = leaves(load_model(folder / "model").model.config, "model")[name]
    assert OTHER_VALUES[name] not in (actual, leaves(ModelConfig(), "model")[name])
    with pytest.raises(InputError) as caught:
        resolve_model(with_fields(from_model(folder), {name: OTHER_VALUES[name]}))
    assert str(caught.value) == (
        f"{name} is {OTHER_VALUES[name]!r}, but init.model {folder / 'model'} decides it: {actual!r}; "
        "leave it out"
    )
    agreed = resolve_model(with_fields(from_model(folder), {name: actual}))
    assert agreed == resolve_model(from_model(folder))
    assert leaves(agreed.model, "model")[name] == actual


def test_fields_that_the_run_decides(folder: Path) -> None:
    own = {
        "model.heads": ("box", "classifier"),
        "model.labels": ("a", "b"),
        "model.vision.patch_dropout": 0.25,
        "model.text.dropout": 0.35,
    }
    assert own.keys() == FREE
    resolved = leaves(resolve_model(with_fields(from_model(folder), own)).model, "model")
    of_folder = leaves(load_model(folder / "model").model.config, "model")
    assert resolved == of_folder | own


def test_the_size_of_images_may_differ_from_the_model_folder(folder: Path) -> None:
    run = from_model(folder)
    larger = replace(run, init=replace(run.init, image_size=128))
    assert resolve_model(larger).model.vision.image_hw == (128, 128)
    with pytest.raises(InputError, match=r"model\.vision\.image_hw is \(64, 96\), but init\.model"):
        resolve_model(with_fields(larger, {"model.vision.image_hw": (64, 96)}))


def test_a_wrong_field_is_an_error_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "run.json", from_model(folder))
    words = ["train", "--from", tmp_path / "run.json", "--model.embed-dim", 99, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 2
    origin = f"init.model {folder / 'model'}"
    message = f"xvlm: model.embed_dim is 99, but {origin} decides it: 16; leave it out\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "out").exists()


def test_run_json_records_the_model_that_is_trained(folder: Path, tmp_path: Path) -> None:
    run = from_model(folder, model__text__dropout=0.2)
    bundle, _ = train(run, tmp_path / "out")
    recorded = read_run(tmp_path / "out" / "run.json")
    assert isinstance(recorded, PretrainRun)
    assert recorded.model == bundle.model.config == load_model(tmp_path / "out").model.config
    assert recorded.model.text.width == TEXT.width and recorded.model.text.dropout == 0.2


def test_a_run_from_a_model_folder_is_repeated_and_resumed(folder: Path, tmp_path: Path) -> None:
    run = replace(from_model(folder), init=InitConfig(model=str(folder / "model"), image_size=64))
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    train(replace(run, optim=replace(run.optim, steps=2)), first)
    repeat = ["train", "--from", str(first / "run.json"), "--out"]
    assert main([*repeat, str(second)]) == 0
    assert (first / "run.json").read_text() == (second / "run.json").read_text()
    assert main([*repeat, str(third), "--minutes", "0"]) == 0
    assert main([*repeat, str(third), "--resume"]) == 0
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (first, second, third)]
    assert weights[0] == weights[1] == weights[2]


def test_a_run_in_epochs_is_repeated_and_resumed(tmp_path: Path) -> None:
    """Steps, warm-up and the interval of evaluations follow from the data again, and from other data."""
    run = tiny_run("vit")
    optim = replace(run.optim, steps=1000, epochs=0.5, warmup_steps=100, warmup_ratio=0.4)
    run = replace(run, optim=optim)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    train(run, first)
    recorded = read_json(first / "run.json")["optim"]
    assert (recorded["steps"], recorded["epochs"], recorded["warmup_steps"]) == (3, 0.5, 1)
    repeat = ["train", "--from", str(first / "run.json"), "--out"]
    assert main([*repeat, str(second)]) == 0
    assert (first / "run.json").read_text() == (second / "run.json").read_text()
    assert main([*repeat, str(third), "--minutes", "0"]) == 0
    assert main([*repeat, str(third), "--resume"]) == 0
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (first, second, third)]
    assert weights[0] == weights[1] == weights[2]
    longer = tmp_path / "longer"
    assert main([*repeat, str(longer), "--optim.epochs", "1"]) == 0
    assert read_json(longer / "run.json")["optim"]["steps"] == 6


@pytest.mark.parametrize("evaluated", [True, False])
def test_epochs_evaluate_after_each_epoch_if_there_are_data(evaluated: bool, tmp_path: Path) -> None:
    run = tiny_run("vit")
    run = replace(run, optim=replace(run.optim, steps=1000, epochs=1.0))
    if evaluated:
        run = with_fields(run, {"validation.retrieval": "scenes:test:2?image_size=64", "validation.limit": 2})
    train(run, tmp_path / "out")
    recorded = read_run(tmp_path / "out" / "run.json")
    assert recorded.eval_every == (6 if evaluated else 0)


def test_steps_and_epochs_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run("vit", steps=7)
    run = replace(run, optim=replace(run.optim, epochs=1.0))
    with pytest.raises(
        InputError, match=r"optim\.steps is 7, but optim\.epochs is 1, which is 6 steps; set only"
    ):
        train(run, tmp_path / "out")


# Trained vocabularies, and BERTs.


def test_a_trained_vocabulary_decides_its_size(tmp_path: Path) -> None:
    bundle, _ = train(tiny_run("vit", steps=1), tmp_path / "out")
    size = bundle.tokenizer.vocab_size
    assert read_json(tmp_path / "out" / "run.json")["model"]["text"]["vocab_size"] == size
    assert bundle.model.config.text.vocab_size == size != TextConfig.vocab_size
    with pytest.raises(InputError) as caught:
        train(with_fields(tiny_run("vit"), {"model.text.vocab_size": size + 1}), tmp_path / "other")
    message = f"model.text.vocab_size is {size + 1}, but the tokenizer decides it: {size}; leave it out"
    assert str(caught.value) == message
    train(with_fields(tiny_run("vit", steps=1), {"model.text.vocab_size": size}), tmp_path / "same")


def from_bert(folder: Path) -> PretrainRun:
    text = TextConfig(text_layers=2, cross_layers=1, pooling="mean", dropout=0.05)
    model = replace(tiny_run("cnn").model, text=text)
    return tiny_run("cnn", steps=1, model=model, init=InitConfig(text=str(folder / "bert")))


@pytest.mark.parametrize("name", [one.name for one in fields(TextConfig) if one.name not in FREE_OF_BERT])
def test_a_field_that_the_bert_decides(name: str, folder: Path) -> None:
    run = from_bert(folder)
    actual = getattr(resolve_model(run).model.text, name)
    field, value = f"model.text.{name}", OTHER_VALUES[f"model.text.{name}"]
    with pytest.raises(InputError) as caught:
        resolve_model(with_fields(run, {field: value}))
    origin = f"init.text {folder / 'bert'}"
    message = f"{field} is {value!r}, but {origin} decides it: {actual!r}; leave it out"
    assert str(caught.value) == message
    assert resolve_model(with_fields(run, {field: actual})) == resolve_model(run)


def test_fields_that_the_run_decides_with_a_bert(folder: Path) -> None:
    resolved = resolve_model(from_bert(folder)).model
    text = resolved.text
    assert (text.text_layers, text.cross_layers, text.pooling, text.dropout) == (2, 1, "mean", 0.05)
    assert (text.vocab_size, text.width, text.heads, text.mlp_width, text.max_positions) == (
        40,
        16,
        2,
        24,
        34,
    )
    assert resolved.vision == from_bert(folder).model.vision


def test_run_json_records_the_sizes_of_the_bert(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tensors = bert_tensors()
    size = tokenizer.vocab_size
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"].repeat(9, 1)[
        :size
    ]
    tensors["cls.predictions.decoder.weight"] = tensors["embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.bias"] = tensors["cls.predictions.bias"].repeat(9)[:size]
    write_bert(tmp_path / "bert", tensors, vocab_size=size)
    tokenizer.save(tmp_path / "bert")
    run = with_fields(from_bert(tmp_path), {"data.max_tokens": 20})
    bundle, _ = train(run, tmp_path / "out")
    recorded = read_run(tmp_path / "out" / "run.json")
    assert isinstance(recorded, PretrainRun) and recorded.model == bundle.model.config
    assert recorded.model.text.vocab_size == size and recorded.model.text.width == 16
    assert (
        main(["train", "--from", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again")]) == 0
    )
    assert (tmp_path / "again" / "run.json").read_text() == (tmp_path / "out" / "run.json").read_text()


INIT_CONFLICTS = [
    ("model", "vision", "timm"),
    ("model", "text", "bert"),
    ("model", "evenly_spaced_layers", True),
    ("model", "tokenizer", "folder"),
    ("model", "vocab_size", 99),
    ("model", "vocab_records", 99),
    ("text", "tokenizer", "folder"),
    ("text", "vocab_size", 99),
    ("text", "vocab_records", 99),
    ("tokenizer", "vocab_size", 99),
    ("tokenizer", "vocab_records", 99),
]


@pytest.mark.parametrize(("cause", "name", "value"), INIT_CONFLICTS)
def test_initial_weights_that_exclude_each_other(cause: str, name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        validate(InitConfig(**{cause: "a", name: value}), "init.")
    assert str(caught.value).startswith(
        f"init.{name} is {value!r}, which has no effect together with {cause} 'a'; leave one of them out"
    )


def test_fields_that_need_another() -> None:
    with pytest.raises(
        InputError, match=r"init\.image_size is 96, which needs model; set model\.vision\.image_hw"
    ):
        validate(InitConfig(image_size=96), "init.")
    with pytest.raises(InputError, match=r"init\.evenly_spaced_layers is True, which needs text"):
        validate(InitConfig(evenly_spaced_layers=True), "init.")
    validate(InitConfig(model="a", image_size=96), "init.")
    validate(InitConfig(text="a", evenly_spaced_layers=True, vision="timm"), "init.")


def test_the_configuration_of_a_vision_encoder_is_free_without_a_model_folder() -> None:
    run = tiny_run("cnn", init=InitConfig(vision="timm"))
    assert resolve_model(run) == run and isinstance(run.model.vision, VisionConfig)
    assert to_json(run)["model"]["vision"]["image_hw"] == [64, 64]
