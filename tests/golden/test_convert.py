"""Published checkpoints in and out: nothing is lost, and nothing wrong is taken."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.golden import files
from tests.tiny import tiny_config
from xvlm.convert import convert, convert_back, read_published
from xvlm.model.folder import load_model
from xvlm.model.published import from_published, to_published
from xvlm.model.published_sizes import Unseen, config_of
from xvlm.model.weights import put
from xvlm.model.xvlm import Part, build_model

NAMES = [name.removesuffix(".pth") for name in files.names() if name.endswith(".pth")]


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A vocabulary as small as the golden models'."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(words + [chr(97 + i) for i in range(26)]))
    return str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_the_same_to_the_bit(name: str, tmp_path: Path, tokenizer: str) -> None:
    convert(files.path(f"{name}.pth"), tmp_path / "ours", files.unseen(name), tokenizer)
    convert_back(tmp_path / "ours", tmp_path / "back.pth")
    whole = torch.load(files.path(f"{name}.pth"), weights_only=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == whole.keys() and back.get("config") == whole.get("config")
    assert back["model"].keys() == whole["model"].keys()
    for key, value in whole["model"].items():
        assert back["model"][key].dtype == value.dtype and torch.equal(back["model"][key], value), key


def test_lengths_and_prompt_are_those_of_its_configuration(tmp_path: Path, tokenizer: str) -> None:
    """A captioner begins its captions as it was taught to."""
    whole = {"model": files.checkpoint("caption224"), "config": {"max_tokens": 30, "prompt": "a picture of "}}
    torch.save(whole, tmp_path / "captions.pth")
    convert(tmp_path / "captions.pth", tmp_path / "ours", files.unseen("caption224"), tokenizer)
    loaded = load_model(tmp_path / "ours")
    assert (loaded.max_tokens, loaded.prompt) == (30, "a picture of ")


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_used_or_named_with_a_reason(name: str) -> None:
    tensors = files.checkpoint(name)
    model = build_model(config_of(tensors, files.unseen(name)))
    taken = from_published(model, tensors)
    assert taken.given.keys() == model.state_dict().keys()
    assert taken.unused and all(taken.unused.values())
    assert not {"vision_proj.weight", "itm_head.0.weight"} & taken.unused.keys()


def broken(how: str, key: str, name: str = "swin224") -> dict[str, torch.Tensor]:
    tensors = dict(files.checkpoint(name))
    value = tensors.pop(key)
    if how == "renamed":
        tensors[f"{key}_of_another_name"] = value
    if how == "reshaped":
        tensors[key] = value[:-1]
    return tensors


KEYS = (
    "itm_head.3.weight",
    "text_encoder.bert.encoder.layer.1.attention.self.key.weight",
    "vision_encoder.layers.1.downsample.reduction.weight",
    "text_encoder.bert.embeddings.position_ids",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_made_need_not_be_there(name: str, tmp_path: Path, tokenizer: str) -> None:
    """Constants, and copies of other tensors: newer libraries and safetensors leave them out."""
    whole = files.checkpoint(name)
    model = build_model(config_of(whole, files.unseen(name)))
    made = set(from_published(model, whole).unused)
    less = {key: value for key, value in whole.items() if key not in made}
    assert made
    save_file(less, tmp_path / "less.safetensors")
    convert(tmp_path / "less.safetensors", tmp_path / "ours", files.unseen(name), tokenizer)
    convert_back(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == whole.keys()
    assert all(torch.equal(back[key], value) for key, value in whole.items())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("how", ["renamed", "missing", "reshaped"])
def test_what_does_not_fit_is_named(how: str, key: str) -> None:
    whole = files.checkpoint("swin224")
    model = build_model(config_of(whole, files.unseen("swin224")))
    if key.endswith("position_ids"):
        how = "renamed"  # without it the checkpoint is whole: it can be made
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as caught:
        from_published(model, broken(how, key))
    if how == "renamed":
        assert "of_another_name" in str(caught.value) or key.endswith("position_ids")


def test_a_copy_with_other_values_is_named() -> None:
    tensors = dict(files.checkpoint("nlvr224"))
    model = build_model(config_of(tensors, files.unseen("nlvr224")))
    second = model.config.text.text_layers + 1
    key = next(key for key in tensors if f"layer.{second}.crossattention.self.key.weight" in key)
    tensors[key] = tensors[key] + 1
    with pytest.raises(ValueError, match="shared with the layer before it"):
        from_published(model, tensors)


@pytest.mark.parametrize(
    ("name", "option"),
    [("swin224", "--text-heads"), ("deit64", "--local-depth"), ("clipvit64", "--local-depth")],
)
def test_what_cannot_be_read_names_its_option(name: str, option: str) -> None:
    tensors = files.checkpoint(name)
    width = tensors["text_proj.weight"].shape[1]
    if width in (768, 1024):
        pytest.skip("a published width: its heads are known")
    with pytest.raises(ValueError, match=option):
        config_of(tensors, Unseen())


class Evil:
    """What a checkpoint must not hold."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code from a checkpoint was run",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"temp": torch.zeros(())}, "config": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="would run code"):
        read_published(tmp_path / "evil.pth")
    assert "was run" not in capsys.readouterr().out
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        read_published(tmp_path / "plain.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth"):
        read_published(tmp_path / "text.pth")


def test_a_missing_file_or_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        convert(tmp_path / "none.pth", tmp_path / "out", Unseen())
    with pytest.raises(FileNotFoundError, match="--tokenizer"):
        convert(files.path("nlvr224.pth"), tmp_path / "out", files.unseen("nlvr224"))
    assert not (tmp_path / "out").exists()


def test_another_resolution(tmp_path: Path, tokenizer: str) -> None:
    unseen = replace(files.unseen("swin224"), image_size=384)
    convert(files.path("swin224.pth"), tmp_path / "ours", unseen, tokenizer)
    assert load_model(tmp_path / "ours").model.config.vision.image_hw == (384, 384)


@pytest.mark.parametrize("parts", [("contrastive", "matching"), ("box",), ("assignment",)])
@pytest.mark.parametrize("tower", ["swin", "vit"])
def test_kinds_without_a_golden_checkpoint_go_round_too(parts: tuple[Part, ...], tower: str) -> None:
    """Retrieval and weak grounding, grounding with boxes, and the domain pre-training for NLVR2."""
    torch.manual_seed(0)
    vision = replace(tiny_config(tower).vision, image_hw=(64, 64))
    if tower == "swin":
        options = {**vision.options, "img_size": 64, "window_size": 4, "patch_size": 4}
        vision = replace(vision, name="swin_base_patch4_window7_224", options=options)
    model = build_model(replace(tiny_config(tower), vision=vision, parts=parts))
    tensors = to_published(model)
    assert not any(name.startswith(("text_encoder.bert.", "text_encoder.cls.")) for name in tensors)
    config = config_of(tensors, Unseen(text_heads=4, vision_heads=3, local_depth=2))
    assert config.parts == parts and config.text == replace(model.config.text, dropout=0.1)
    again = build_model(config)
    assert from_published(again, tensors).given.keys() == again.state_dict().keys()
    put(again, from_published(again, tensors).given, "test")
    back = to_published(again)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in back)
