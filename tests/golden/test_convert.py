"""Published checkpoints survive the conversion in both directions, and wrong ones are refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.golden import files
from tests.tiny import tiny_config
from xvlm.models.checkpoints.convert import convert, convert_back, read_published
from xvlm.models.checkpoints.folder import load_model
from xvlm.models.checkpoints.initial_weights import load_tensors
from xvlm.models.checkpoints.published_names import from_published, to_published
from xvlm.models.checkpoints.published_sizes import UnseenSizes, config_of
from xvlm.models.xvlm import build_model

NAMES = [name.removesuffix(".pth") for name in files.names() if name.endswith(".pth")]


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """A vocabulary of the golden models' size."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(words + [chr(97 + i) for i in range(26)]))
    return str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_round_trip_is_exact(name: str, tmp_path: Path, tokenizer: str) -> None:
    convert(files.path(f"{name}.pth"), tmp_path / "ours", files.unseen(name), tokenizer)
    convert_back(tmp_path / "ours", tmp_path / "back.pth")
    published = torch.load(files.path(f"{name}.pth"), weights_only=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == published.keys() and back.get("config") == published.get("config")
    assert back["model"].keys() == published["model"].keys()
    for key, value in published["model"].items():
        assert back["model"][key].dtype == value.dtype and torch.equal(back["model"][key], value), key


def test_lengths_and_prompt_come_from_the_configuration(tmp_path: Path, tokenizer: str) -> None:
    content = {"model": files.checkpoint("caption224")}
    content["config"] = {"max_tokens": 30, "prompt": "a picture of "}
    torch.save(content, tmp_path / "captions.pth")
    convert(tmp_path / "captions.pth", tmp_path / "ours", files.unseen("caption224"), tokenizer)
    loaded = load_model(tmp_path / "ours")
    assert (loaded.max_tokens, loaded.prompt) == (30, "a picture of ")


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_used_or_named_with_a_reason(name: str) -> None:
    tensors = files.checkpoint(name)
    model = build_model(config_of(tensors, files.unseen(name)))
    converted, unused = from_published(model, tensors)
    assert converted.keys() == model.state_dict().keys()
    assert unused and all(unused.values())
    assert not {"vision_proj.weight", "itm_head.0.weight"} & unused.keys()


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
def test_constants_and_copies_may_be_missing(name: str, tmp_path: Path, tokenizer: str) -> None:
    """Newer libraries and safetensors leave them out."""
    published = files.checkpoint(name)
    model = build_model(config_of(published, files.unseen(name)))
    unused = set(from_published(model, published).unused)
    assert unused
    needed = {key: value for key, value in published.items() if key not in unused}
    save_file(needed, tmp_path / "needed.safetensors")
    convert(tmp_path / "needed.safetensors", tmp_path / "ours", files.unseen(name), tokenizer)
    convert_back(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == published.keys()
    assert all(torch.equal(back[key], value) for key, value in published.items())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("how", ["renamed", "missing", "reshaped"])
def test_a_wrong_tensor_is_named(how: str, key: str) -> None:
    published = files.checkpoint("swin224")
    model = build_model(config_of(published, files.unseen("swin224")))
    if key.endswith("position_ids"):
        how = "renamed"  # a constant may be missing
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
def test_a_size_that_cannot_be_inferred_names_its_option(name: str, option: str) -> None:
    tensors = files.checkpoint(name)
    width = tensors["text_proj.weight"].shape[1]
    if width in (768, 1024):
        pytest.skip("a published width: its heads are known")
    with pytest.raises(ValueError, match=option):
        config_of(tensors, UnseenSizes())


class Evil:
    """Runs code when unpickled."""

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
        convert(tmp_path / "none.pth", tmp_path / "out", UnseenSizes())
    with pytest.raises(FileNotFoundError, match="--tokenizer"):
        convert(files.path("nlvr224.pth"), tmp_path / "out", files.unseen("nlvr224"))
    assert not (tmp_path / "out").exists()


def test_another_resolution(tmp_path: Path, tokenizer: str) -> None:
    unseen = replace(files.unseen("swin224"), image_size=384)
    convert(files.path("swin224.pth"), tmp_path / "ours", unseen, tokenizer)
    assert load_model(tmp_path / "ours").model.config.vision.image_hw == (384, 384)


@pytest.mark.parametrize("heads", [("contrastive", "matching"), ("box",), ("text_assignment",)])
@pytest.mark.parametrize("tower", ["swin", "vit"])
def test_the_round_trip_of_kinds_without_a_golden_checkpoint(heads: tuple[str, ...], tower: str) -> None:
    """These are retrieval and weak grounding, grounding with boxes, and domain pre-training for NLVR2."""
    torch.manual_seed(0)
    vision = replace(tiny_config(tower).vision, image_hw=(64, 64))
    if tower == "swin":
        options = {**vision.options, "img_size": 64, "window_size": 4, "patch_size": 4}
        vision = replace(vision, name="swin_base_patch4_window7_224", options=options)
    model = build_model(replace(tiny_config(tower), vision=vision, heads=heads))
    tensors = to_published(model)
    assert not any(name.startswith(("text_encoder.bert.", "text_encoder.cls.")) for name in tensors)
    config = config_of(tensors, UnseenSizes(text_heads=4, vision_heads=3, local_depth=2))
    assert config.heads == heads and config.text == replace(model.config.text, dropout=0.1)
    again = build_model(config)
    converted = from_published(again, tensors).tensors
    assert converted.keys() == again.state_dict().keys()
    load_tensors(again, converted, "test")
    back = to_published(again)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in back)
