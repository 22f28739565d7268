"""Memory-efficient forms compute what the plain ones do, and save less for the backward pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tiny import TEXT, tiny_run, tiny_task, toy_batch
from xvlm import distributed
from xvlm.bench.step import new_task
from xvlm.models.cpu import swin
from xvlm.models.cpu.embedding import MemoryEfficientEmbedding
from xvlm.models.cpu.enable import use_memory_efficient_training
from xvlm.models.cpu.mlp import MemoryEfficientMlp, MemoryEfficientTextMLP
from xvlm.models.cpu.swin import MemoryEfficientSwinBlock
from xvlm.models.text.encoder import TextEmbedding
from xvlm.training.train import train

SWIN: dict[str, Any] = {
    "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "img_size": 64,
    "drop_path_rate": 0.0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": SWIN,
    "deit_tiny_patch16_224": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 64},
    "swin_base_patch4_window7_224": {**SWIN, "window_size": 5},  # which divides neither 16 nor 8
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]},
}


def plain_and_efficient(name: str) -> tuple[nn.Module, nn.Module]:
    """Return a timm model, and a copy with memory-efficient forms."""
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, **MODELS[name]).double()
    with torch.no_grad():  # biases are initialized as zeros, which would hide one that is not used
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    efficient = copy.deepcopy(plain)
    use_memory_efficient_training(efficient)
    return plain, efficient


def features_and_gradients(model: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return features, and the gradients of pixels and parameters."""
    pixels = pixels.clone().requires_grad_()
    out = model.forward_features(pixels)  # type: ignore[operator]
    torch.manual_seed(1)
    (out * torch.randn_like(out)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert pixels.grad is not None
    return out.detach(), [pixels.grad, *gradients]


@pytest.fixture(params=[0, 24, 512])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks, those of the second stage (32 channels), or none are wide; MLPs run in several parts."""
    monkeypatch.setattr(swin, "WIDE", request.param)
    monkeypatch.setattr(swin, "TOKENS_AT_ONCE", 100)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_features_and_gradients_are_the_same(name: str) -> None:
    plain, efficient = plain_and_efficient(name)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected, expected_gradients = features_and_gradients(plain, pixels)
    out, gradients = features_and_gradients(efficient, pixels)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)
    assert len(gradients) == len(expected_gradients)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(efficient.forward_features(pixels), expected, atol=1e-12)  # type: ignore[operator]


def test_losses_and_gradients_of_pretraining_are_the_same() -> None:
    losses, gradients = [], []
    for enable in (False, True):
        task = tiny_task("swin").double()
        if enable:
            use_memory_efficient_training(task)
        torch.manual_seed(0)
        found = task(toy_batch())
        torch.stack(list(found.values())).sum().backward()
        losses.append({name: value.item() for name, value in found.items()})
        gradients.append({name: p.grad for name, p in task.named_parameters() if p.grad is not None})
    kinds = {type(module) for module in task.modules()}
    assert {MemoryEfficientSwinBlock, MemoryEfficientTextMLP, MemoryEfficientEmbedding} <= kinds
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_run_decides_for_training_and_bench(enabled: bool, tmp_path: Path) -> None:
    run = tiny_run(steps=1, cpu_memory_efficient=enabled)
    bundle, _ = train(run, tmp_path / "run")
    for model in (bundle.model, new_task(run, distributed.device()).model):
        efficient = any(isinstance(module, MemoryEfficientTextMLP) for module in model.modules())
        assert efficient is (enabled and distributed.device().type == "cpu")


def test_names_of_parameters_stay_and_copies_are_copies() -> None:
    plain, efficient = plain_and_efficient("swin_tiny_patch4_window7_224")
    assert plain.state_dict().keys() == efficient.state_dict().keys()
    kinds = {type(module) for module in efficient.modules()}
    assert {MemoryEfficientMlp, MemoryEfficientSwinBlock} <= kinds
    copied = copy.deepcopy(efficient)
    with torch.no_grad():
        for parameter in efficient.parameters():
            parameter.zero_()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(features_and_gradients(copied, pixels)[0], features_and_gradients(plain, pixels)[0])


@pytest.mark.usefixtures("wide")
def test_less_is_saved_for_the_backward_pass() -> None:
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def saved_bytes(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            model.forward_features(pixels)  # type: ignore[operator]
        return sum(sizes.values())

    plain, efficient = plain_and_efficient("swin_tiny_patch4_window7_224")
    assert saved_bytes(efficient) < 0.7 * saved_bytes(plain)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_autocast_is_followed(name: str) -> None:
    _, efficient = plain_and_efficient(name)
    efficient = efficient.float()
    pixels = torch.randn(2, 3, 64, 64)
    expected = efficient.forward_features(pixels)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        out, gradients = features_and_gradients(efficient, pixels)
    assert torch.allclose(out.float(), expected, atol=0.1)
    assert all(torch.isfinite(one).all() for one in gradients)


def test_other_activations_and_dropout_are_left_to_timm() -> None:
    mlp = timm.layers.Mlp(8, 16, act_layer=nn.ReLU)
    use_memory_efficient_training(mlp)
    assert type(mlp) is timm.layers.Mlp
    dropping = timm.layers.Mlp(8, 16, drop=0.5)
    use_memory_efficient_training(dropping)
    torch.manual_seed(0)
    assert not torch.equal(dropping(torch.ones(4, 8)), dropping(torch.ones(4, 8)))


def test_a_shared_table_gets_both_gradients() -> None:
    """The gradients of rows (some used twice) and of the whole table are added; each works alone, too."""
    embedding = TextEmbedding(TEXT).double()
    width, count = TEXT.width, TEXT.vocab_size
    ids_T = torch.tensor([4, 0, 4, 6])
    row_TD, matrix_VD = (torch.randn(n, width, dtype=torch.float64) for n in (4, count))
    for use_rows, use_table in ((True, True), (True, False), (False, True)):

        def gradient(
            rows: Tensor, table: Tensor, use_rows: bool = use_rows, use_table: bool = use_table
        ) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            if use_rows:
                total = total + (rows * row_TD).sum()
            if use_table:
                total = total + (F.linear(row_TD, table) ** 2).sum() + (table * matrix_VD).sum()
            return torch.autograd.grad(total, embedding.token.weight)[0]

        expected = gradient(embedding.token(ids_T), embedding.token.weight)
        efficient = copy.copy(embedding)
        use_memory_efficient_training(efficient)
        assert type(efficient) is MemoryEfficientEmbedding
        rows, table = efficient.embed_tokens(ids_T)
        assert torch.equal(rows, embedding.token(ids_T)) and torch.equal(table, embedding.token.weight)
        assert torch.allclose(gradient(rows, table), expected, rtol=1e-12)
