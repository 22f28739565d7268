"""Kernels compute what the plain code does; without a GPU, Triton's interpreter runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from xvlm.bench.common.batches import CAPTION, PHRASE, noise_samples
from xvlm.models.activation_checkpointing import checkpoint_activations
from xvlm.models.gpu import enable, fused, linear, swin, text, vit
from xvlm.models.gpu.kernels import launch
from xvlm.models.gpu.kernels.mlp import column_sums, gelu_backward
from xvlm.models.gpu.kernels.norm import AddNorm
from xvlm.models.gpu.kernels.text_attention import TextCrossAttention, TextSelfAttention
from xvlm.models.gpu.kernels.window_attention import WindowAttention
from xvlm.models.text.attention import attend, attend_with_mean
from xvlm.models.text.encoder import TextConfig
from xvlm.models.text.packing import Packing, Padding, _single_bucket
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig, build_model
from xvlm.tasks import pretrain
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate
from xvlm.tasks.pretrain import LossConfig, Pretrain

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SWIN = VisionConfig(
    "swin_tiny_patch4_window7_224", (56, 56),
    {"embed_dim": 32, "depths": (2, 1), "num_heads": (2, 2), "window_size": 28, "drop_path_rate": 0.0},
)  # fmt: skip
VIT = VisionConfig(
    "vit_tiny_patch16_224", (64, 64), {"embed_dim": 32, "depth": 3, "num_heads": 2}, local_depth=2
)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use kernels wherever they are interpreted or compiled."""
    for module in (fused, swin, text, vit):
        monkeypatch.setattr(module, "has_kernels", lambda x: x.dtype in (torch.float32, torch.bfloat16))
    monkeypatch.setattr(pretrain, "is_slow_to_ask", lambda x: True)


def task_and_batch(vision: VisionConfig) -> tuple[Pretrain, PretrainBatch]:
    sizes = TextConfig(
        vocab_size=100, width=32, heads=2, mlp_width=64, text_layers=1, cross_layers=2, dropout=0.2
    )
    config = ModelConfig(vision, sizes, embed_dim=16)
    torch.manual_seed(0)
    task = Pretrain(build_model(config), LossConfig())
    with torch.no_grad():  # biases are initialized as zeros, which would hide one that is not used
        for parameter in task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    samples = {
        "pairs": noise_samples(config, [1, 1], CAPTION, False),
        "regions": noise_samples(config, [2], PHRASE, True),
    }
    return task.to(DEVICE).eval(), collate(samples).to(DEVICE)


def losses_and_gradients(task: Pretrain, batch: PretrainBatch) -> tuple[dict[str, Tensor], list[Tensor]]:
    torch.manual_seed(1)
    task.zero_grad(set_to_none=True)
    losses = task(batch)
    torch.stack([*losses.values()]).sum().backward()
    return losses, [p.grad.clone() for p in task.parameters() if p.grad is not None]


def assert_same_gradients(actual: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3)


@pytest.mark.parametrize("vision", [SWIN, VIT], ids=["swin", "vit"])
def test_a_step_has_the_same_losses_and_gradients(vision: VisionConfig, kernels: None) -> None:
    task, batch = task_and_batch(vision)
    names = list(task.state_dict())
    losses, gradients = losses_and_gradients(task, batch)
    enable.use_kernels(task)
    assert list(task.state_dict()) == names
    forms = {type(module).__name__ for module in task.modules()}
    assert {"KernelLayer", "KernelSwinStage" if vision is SWIN else "KernelBlock"} <= forms
    with_kernels, with_gradients = losses_and_gradients(task, batch)
    for name, loss in losses.items():
        torch.testing.assert_close(with_kernels[name], loss, rtol=1e-5, atol=1e-6)
    assert_same_gradients(with_gradients, gradients)
    # Dropout: the same seed drops the same numbers, in the forward, the backward and the recomputed pass.
    task.train()
    first = losses_and_gradients(task, batch)
    assert any(not torch.equal(first[0][name], with_kernels[name]) for name in first[0])
    if vision is SWIN:  # the blocks of a ViT are recomputed as a whole
        checkpoint_activations(task, "selective")
    second = losses_and_gradients(task, batch)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert_same_gradients(second[1], first[1])


class AsksNothing(TorchDispatchMode):
    """Raises an error where an operation waits for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "multinomial")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name == "index":
            indices = [one for one in args[1] if one is not None]
            assert all(one.dtype != torch.bool for one in indices), "an index by a mask waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("vision", [SWIN, VIT], ids=["swin", "vit"])
@pytest.mark.parametrize(
    "weights",
    [LossConfig(), LossConfig(mlm=0.0), LossConfig(itm=0.0, itc=0.0), LossConfig(all_pairs=2, phrases=1.0)],
)
def test_a_step_asks_nothing_of_the_device(
    vision: VisionConfig, weights: LossConfig, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = task_and_batch(vision)
    task.weights = weights
    counted = replace(
        batch, counts=batch.counted(), concepts=replace(batch.concepts, boxed_N=batch.concepts.boxed_rows())
    )
    # The plain code: a kernel that is interpreted reads its arguments as numbers.
    for module in (fused, swin, text, vit):
        monkeypatch.setattr(module, "has_kernels", lambda x: False)
    if DEVICE.type == "cpu":  # where texts are padded in buckets, whose sizes are read
        monkeypatch.setattr("xvlm.models.text.packing._length_buckets", single_bucket)
    with AsksNothing():
        losses_and_gradients(task, counted)
    with pytest.raises(AssertionError, match="waits for the device"), AsksNothing():
        losses_and_gradients(task, replace(batch, counts=None))


def single_bucket(lengths_S: Tensor, total: int) -> Padding:
    return _single_bucket(Packing.from_lengths(lengths_S, total, None), 64)


def test_without_a_gpu_the_plain_code_runs() -> None:
    task, batch = task_and_batch(SWIN)
    task, batch = task.cpu(), batch.to("cpu")
    losses, gradients = losses_and_gradients(task, batch)
    enable.use_kernels(task)
    again, again_gradients = losses_and_gradients(task, batch)
    assert all(torch.equal(again[name], loss) for name, loss in losses.items())
    assert all(torch.equal(one, other) for one, other in zip(again_gradients, gradients, strict=True))


@pytest.mark.parametrize(
    ("grid_hw", "window", "shift"),
    [((8, 8), 4, 0), ((8, 8), 4, 2), ((14, 14), 7, 3), ((14, 7), 7, 3), ((7, 7), 7, 3)],
)
def test_windowed_attention_is_timms(grid_hw: tuple[int, int], window: int, shift: int) -> None:
    torch.manual_seed(0)
    block = SwinTransformerBlock(32, grid_hw, num_heads=2, window_size=window, shift_size=shift).to(DEVICE)
    attn: Any = block.attn
    nn.init.normal_(attn.relative_position_bias_table)
    x, grad = torch.randn(2, *grid_hw, 32, device=DEVICE), torch.randn(2, *grid_hw, 32, device=DEVICE)
    expected = block._attn(x)
    bias_HPP = attn._get_rel_pos_bias()[0]
    actual = attn.proj(
        WindowAttention.apply(attn.qkv(x), bias_HPP, tuple(block.window_size), tuple(block.shift_size))
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    parameters = list(attn.parameters())
    assert_same_gradients(
        list(torch.autograd.grad(actual, parameters, grad)),
        list(torch.autograd.grad(expected, parameters, grad)),
    )


lengths = st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any)


@settings(max_examples=8, deadline=None)
@given(lengths, st.booleans(), st.integers(0, 3))
def test_self_attention_stays_within_a_text(sizes: list[int], causal: bool, filler: int) -> None:
    torch.manual_seed(0)
    length_S = torch.tensor(sizes, device=DEVICE)
    start_S = length_S.cumsum(0) - length_S
    qkv = torch.randn(sum(sizes) + filler, 96, device=DEVICE, requires_grad=True)
    actual = TextSelfAttention.apply(qkv, start_S, length_S, max(sizes), 2, 0.0, 0, causal)
    parts = []
    for part in qkv[: sum(sizes)].split(sizes):
        q, k, v = part.unflatten(1, (3, 2, 16)).permute(1, 2, 0, 3)[:, None]
        mask = torch.ones(len(part), len(part), dtype=torch.bool, device=DEVICE)
        parts.append(attend(q, k, v, mask.tril() if causal else mask, 0.0)[0].transpose(0, 1).flatten(1))
    expected = torch.cat((*parts, qkv.new_zeros(filler, 32)))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    grad = torch.randn_like(expected)
    assert_same_gradients(
        list(torch.autograd.grad(actual, qkv, grad)), list(torch.autograd.grad(expected, qkv, grad))
    )


@settings(max_examples=8, deadline=None)
@given(lengths, st.integers(1, 20), st.booleans())
def test_cross_attention_reads_the_patches_of_a_concept(sizes: list[int], patches: int, mean: bool) -> None:
    torch.manual_seed(0)
    length_S = torch.tensor(sizes, device=DEVICE)
    start_S = length_S.cumsum(0) - length_S
    q_TD = torch.randn(sum(sizes), 32, device=DEVICE, requires_grad=True)
    kv_SPD = torch.randn(len(sizes), patches, 64, device=DEVICE, requires_grad=True)
    mask_CP = torch.rand(5, patches, device=DEVICE) < 0.5
    mask_CP[:, 0] = True
    concept_T = torch.randint(5, (sum(sizes),), device=DEVICE)
    actual = TextCrossAttention.apply(q_TD, kv_SPD, start_S, length_S, concept_T, mask_CP, 2, 0.0, 0, mean)
    parts, attention = [], attend_with_mean if mean else attend
    for index, (part, concept) in enumerate(zip(q_TD.split(sizes), concept_T.split(sizes), strict=True)):
        k, v = kv_SPD[index].unflatten(1, (2, 2, 16)).permute(1, 2, 0, 3)[:, None]
        q = part.unflatten(1, (2, 16)).transpose(0, 1)[None]
        mixed = attention(q, k, v, mask_CP[concept][None, None], 0.0)
        parts.append(mixed[0].transpose(0, 1).flatten(1))
    expected = torch.cat(parts)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    grad = torch.randn_like(expected)
    assert_same_gradients(
        list(torch.autograd.grad(actual, (q_TD, kv_SPD), grad)),
        list(torch.autograd.grad(expected, (q_TD, kv_SPD), grad)),
    )


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([24, 32, 96]), st.booleans(), st.booleans(), st.booleans())
def test_the_norm_of_a_sum(width: int, post: bool, branched: bool, scaled: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, width, device=DEVICE, requires_grad=True)
    branch = torch.randn_like(x, requires_grad=True) if branched else None
    scale_B = torch.tensor([0.0, 2.0, 1.0, 0.5], device=DEVICE) if branched and scaled else None
    norm = nn.LayerNorm(width, 1e-5).to(DEVICE)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    total, low = AddNorm.apply(
        x, branch, norm.weight, norm.bias, norm.eps, post, torch.float32, scale_B, 0.0, 0
    )
    factor = 1.0 if scale_B is None else scale_B.view(-1, 1, 1)
    expected_sum = x if branch is None else x + branch * factor
    expected = norm(expected_sum)
    torch.testing.assert_close(low, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total, expected if post else expected_sum, atol=1e-5, rtol=1e-4)
    wanted = [one for one in (x, branch, norm.weight, norm.bias) if one is not None]
    a, b = torch.randn_like(x), torch.randn_like(x)
    actual_gradients = torch.autograd.grad((total, low), wanted, (a, b))
    expected_gradients = torch.autograd.grad((expected if post else expected_sum, expected), wanted, (a, b))
    assert_same_gradients(list(actual_gradients), list(expected_gradients))


def directional(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, float]:
    """Return a derivative in a random direction, by autograd and by a difference."""
    direction, grad = torch.randn_like(x), torch.randn_like(function(x))
    (gradient,) = torch.autograd.grad(function(x), x, grad)
    step = 1e-2
    difference = function(x + step * direction) - function(x - step * direction)
    return float((gradient * direction).double().sum()), float(
        (difference.double() * grad).sum() / (2 * step)
    )


def test_dropout_drops_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    length_S = torch.tensor([20, 12], device=DEVICE)
    start_S = length_S.cumsum(0) - length_S
    qkv = torch.randn(32, 96, device=DEVICE, requires_grad=True)
    kv_SPD = torch.randn(2, 9, 64, device=DEVICE, requires_grad=True)
    q_TD = torch.randn(32, 32, device=DEVICE, requires_grad=True)
    branch = torch.randn(32, 32, device=DEVICE, requires_grad=True)
    mask_CP = torch.ones(1, 9, dtype=torch.bool, device=DEVICE)
    concept_T = torch.zeros(32, dtype=torch.int64, device=DEVICE)
    weight, bias = torch.ones(32, device=DEVICE), torch.zeros(32, device=DEVICE)
    layout = start_S, length_S, concept_T, mask_CP
    cases: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: TextSelfAttention.apply(x, start_S, length_S, 20, 2, 0.4, 5, False), qkv),
        (lambda x: TextCrossAttention.apply(x, kv_SPD, *layout, 2, 0.4, 5, True), q_TD),
        (lambda x: TextCrossAttention.apply(q_TD, x, *layout, 2, 0.4, 5, True), kv_SPD),
        (lambda x: AddNorm.apply(q_TD, x, weight, bias, 1e-5, True, None, None, 0.4, 5)[0], branch),
    ]
    for function, x in cases:
        by_autograd, by_difference = directional(function, x)
        assert by_autograd == pytest.approx(by_difference, rel=0.02, abs=0.02)
    first = AddNorm.apply(q_TD, branch, weight, bias, 1e-5, False, None, None, 0.4, 5)[0] - q_TD
    dropped = (first.abs() < 1e-6).float().mean()
    assert 0.3 < dropped < 0.5  # of 1,024 numbers
    torch.testing.assert_close(
        first[first.abs() > 1e-6], (branch / 0.6)[first.abs() > 1e-6], atol=1e-5, rtol=1e-4
    )
    other = AddNorm.apply(q_TD, branch, weight, bias, 1e-5, False, None, None, 0.4, 6)[0] - q_TD
    assert not torch.equal(first, other)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 70), st.integers(1, 150))
def test_sums_of_columns_and_the_gradient_of_gelu(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(rows, columns, device=DEVICE, requires_grad=True)
    grad = torch.randn(rows, columns, device=DEVICE)
    torch.testing.assert_close(column_sums(grad), grad.sum(0), atol=1e-4, rtol=1e-4)
    expected = F.gelu(hidden)
    (dhidden,) = torch.autograd.grad(expected, hidden, grad)
    product = grad.clone()
    wide, sums = gelu_backward(product, hidden.detach())
    torch.testing.assert_close(wide, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(product, dhidden, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sums, dhidden.sum(0), atol=1e-4, rtol=1e-4)


def test_weights_are_converted_once_and_into_the_same_memory() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    weight = model[0].weight
    with linear.converted_weights(model, torch.bfloat16):
        first = linear.convert(weight, torch.bfloat16)
        assert torch.equal(first, weight.bfloat16()) and first is linear.convert(weight, torch.bfloat16)
    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(linear.convert(weight, torch.bfloat16), weight.bfloat16())  # outside, anew
    with linear.converted_weights(model, torch.bfloat16):
        second = linear.convert(weight, torch.bfloat16)
        assert second.data_ptr() == first.data_ptr() and torch.equal(second, weight.bfloat16())
        assert linear.convert(weight, torch.float64).dtype == torch.float64


def test_a_compiled_kernel_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is compiled for each precision and each value of the constants."""
    calls: list[Any] = []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args: calls.append(("again", grid, args))

    class Kernel:
        device_caches: dict[int, Any] = {}  # noqa: RUF012

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
            return lambda *args, **constants: calls.append(("compile", constants)) or Compiled()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    kernel, x = Kernel(), torch.zeros(4)
    launch.launch(kernel, (3,), (x, 7), {"D": 4, "num_warps": 4})
    launch.launch(kernel, (5,), (x, 8), {"D": 4, "num_warps": 4})
    launch.launch(kernel, (5,), (x.double(), 8), {"D": 4, "num_warps": 4})
    launch.launch(kernel, (5,), (x, 8), {"D": 2, "num_warps": 4})
    assert [call[0] for call in calls] == ["compile", "again", "compile", "compile"]
    assert calls[1][1] == (5, 1, 1) and calls[1][2][1:] == (8, 4)
