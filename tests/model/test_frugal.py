"""Frugal parts compute what timm's do, and keep less."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.model import frugal_swin
from xvlm.model.frugal import FrugalMlp, make_mlps_frugal, tokens_and_matrix
from xvlm.model.frugal_swin import FrugalSwinBlock, make_blocks_frugal

SWIN: dict[str, Any] = {
    "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "img_size": 64,
    "drop_path_rate": 0.0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": SWIN,
    "deit_tiny_patch16_224": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 64},
    "swin_base_patch4_window7_224": {**SWIN, "window_size": 5},  # of which 16 and 8 are no multiples
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]},
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A timm model, and a frugal copy."""
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, **MODELS[name]).double()
    with torch.no_grad():  # biases begin as zeros, which would hide one that is forgotten
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    frugal = copy.deepcopy(plain)
    make_blocks_frugal(frugal)
    make_mlps_frugal(frugal)
    return plain, frugal


def found(model: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features, and the gradients of pixels and parameters."""
    pixels = pixels.clone().requires_grad_()
    out = model.forward_features(pixels)  # type: ignore[operator]
    torch.manual_seed(1)
    (out * torch.randn_like(out)).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert pixels.grad is not None
    return out.detach(), [pixels.grad, *gradients]


@pytest.fixture(params=[0, 24, 512])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks wide, the second stage's alone (32 channels), none; and MLPs in several parts."""
    monkeypatch.setattr(frugal_swin, "WIDE", request.param)
    monkeypatch.setattr(frugal_swin, "TOKENS_AT_ONCE", 100)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_features_and_gradients_are_the_same(name: str) -> None:
    plain, frugal = pair(name)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    (expected, wanted), (out, gradients) = found(plain, pixels), found(frugal, pixels)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)
    assert len(gradients) == len(wanted)
    for one, other in zip(gradients, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(frugal.forward_features(pixels), expected, atol=1e-12)  # type: ignore[operator]


def test_names_of_parameters_stay_and_copies_are_copies() -> None:
    plain, frugal = pair("swin_tiny_patch4_window7_224")
    assert plain.state_dict().keys() == frugal.state_dict().keys()
    kinds = {type(module) for module in frugal.modules()}
    assert {FrugalMlp, FrugalSwinBlock} <= kinds
    copied = copy.deepcopy(frugal)
    with torch.no_grad():
        for parameter in frugal.parameters():
            parameter.zero_()
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(found(copied, pixels)[0], found(plain, pixels)[0])


@pytest.mark.usefixtures("wide")
def test_less_is_kept_for_the_backward_pass() -> None:
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            model.forward_features(pixels)  # type: ignore[operator]
        return sum(sizes.values())

    plain, frugal = pair("swin_tiny_patch4_window7_224")
    assert kept(frugal) < 0.7 * kept(plain)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_autocast_is_followed(name: str) -> None:
    _, frugal = pair(name)
    frugal = frugal.float()
    pixels = torch.randn(2, 3, 64, 64)
    expected = frugal.forward_features(pixels)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        out, gradients = found(frugal, pixels)
    assert torch.allclose(out.float(), expected, atol=0.1)
    assert all(torch.isfinite(one).all() for one in gradients)


def test_other_activations_and_dropout_are_left_to_timm() -> None:
    mlp = timm.layers.Mlp(8, 16, act_layer=nn.ReLU)
    make_mlps_frugal(mlp)
    assert type(mlp) is timm.layers.Mlp
    dropping = timm.layers.Mlp(8, 16, drop=0.5)
    make_mlps_frugal(dropping)
    torch.manual_seed(0)
    assert not torch.equal(dropping(torch.ones(4, 8)), dropping(torch.ones(4, 8)))


def test_a_matrix_read_twice_gets_both_gradients() -> None:
    """Rows for texts (some twice) and the whole matrix for a head; each alone, too."""
    embedding = nn.Embedding(7, 3).double()
    ids_T = torch.tensor([4, 0, 4, 6])
    row_TD, matrix_VD = (torch.randn(n, 3, dtype=torch.float64) for n in (4, 7))
    for use_rows, use_matrix in ((True, True), (True, False), (False, True)):

        def gradient(
            rows: Tensor, matrix: Tensor, use_rows: bool = use_rows, use_matrix: bool = use_matrix
        ) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            if use_rows:
                total = total + (rows * row_TD).sum()
            if use_matrix:
                total = total + (F.linear(row_TD, matrix) ** 2).sum() + (matrix * matrix_VD).sum()
            return torch.autograd.grad(total, embedding.weight)[0]

        expected = gradient(embedding(ids_T), embedding.weight)
        rows, matrix = tokens_and_matrix(embedding, ids_T)
        assert torch.equal(rows, embedding(ids_T)) and torch.equal(matrix, embedding.weight)
        assert torch.allclose(gradient(rows, matrix), expected, rtol=1e-12)
