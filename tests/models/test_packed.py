"""Packed texts: gradients, precision, attention and dropout.  (Against padded texts: tests/bench.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import KINDS, TEXT, tiny_task, toy_parts
from xvlm.models.text.attention import attend, attend_with_mean
from xvlm.models.text.encoder import Layer
from xvlm.models.text.packing import Packing
from xvlm.tasks.common.pretraining_batch import collate


@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_parameter_gets_a_gradient(kind: str) -> None:
    """DDP would wait for a parameter without a gradient."""
    task = tiny_task(kind).train()
    torch.stack([*task(collate(toy_parts())).values()]).sum().backward()
    trainable = [(name, p.grad) for name, p in task.named_parameters() if p.requires_grad]
    assert [name for name, gradient in trainable if gradient is None] == []


def test_float32_is_near_float64() -> None:
    batch = collate(toy_parts())
    task = tiny_task("cnn").train()
    torch.manual_seed(0)
    single = task(batch)
    torch.manual_seed(0)
    double = tiny_task("cnn").train().double()(batch)
    for name, value in single.items():
        if "itm" not in name:  # its negatives may differ
            assert value.item() == pytest.approx(double[name].item(), rel=1e-4), name


def test_attention_equals_a_plain_softmax() -> None:
    """Results and gradients; PyTorch's own attention gives the same."""
    tensors = [x.requires_grad_() for x in qkv(torch.float64)[:3]]
    q, k, v = tensors
    mask = qkv(torch.float64)[3]
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1) @ v
    actual = attend(q, k, v, mask, 0.0)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), expected)
    weight = torch.arange(expected.numel(), dtype=torch.float64).view_as(expected)
    for computed, wanted in zip(
        torch.autograd.grad((actual * weight).sum(), tensors, retain_graph=True),
        torch.autograd.grad((expected * weight).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(computed, wanted)


def qkv(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(3, 2, 5, 8, generator=generator)
    k, v = torch.randn(2, 3, 2, 7, 8, generator=generator)
    mask = torch.rand(3, 1, 5, 7, generator=generator) < 0.5
    mask[..., 0] = True
    return q.to(dtype), k.to(dtype), v.to(dtype), mask


@pytest.mark.parametrize("attention", [attend, attend_with_mean])
def test_half_precision_attention_is_near(attention: Any) -> None:
    *single, mask = qkv(torch.float32)
    *half, _ = qkv(torch.bfloat16)
    out = attention(*half, mask, 0.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), attention(*single, mask, 0.0), atol=1e-2, rtol=1e-2)


def test_attention_to_the_mean_is_attention_to_one_more_token() -> None:
    q, k, v, mask = qkv(torch.float64)
    mask = mask[:, :, :1].expand_as(mask)  # one concept for each token set
    share = mask[:, :, :1].to(k.dtype) / mask[:, :, :1].sum(-1, keepdim=True)
    with_mean = [torch.cat((share @ x, x), dim=2) for x in (k, v)]
    expected = attend(q, *with_mean, torch.cat((torch.ones_like(mask[..., :1]), mask), -1), 0.0)
    torch.testing.assert_close(attend_with_mean(q, k, v, mask, 0.0), expected)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    q, k, v, mask = qkv(torch.float32)
    for attention in (attend, attend_with_mean):
        plain = attention(q, k, v, mask, 0.0)
        assert not torch.allclose(attention(q, k, v, mask, 0.5), plain)
        torch.testing.assert_close(attention(q, k, v, mask, 0.0), plain)
        mean = torch.stack([attention(q, k, v, mask, 0.2) for _ in range(400)]).mean(0)
        torch.testing.assert_close(mean, plain, atol=0.15, rtol=0)


@pytest.mark.parametrize("lengths", [[1], [3, 1, 9, 30], [2, 2, 2], [1, 70, 4]])
def test_causal_layers_attend_to_no_later_token(lengths: list[int]) -> None:
    """Changing the last token of every text changes no state before it; without `causal` it does."""
    torch.manual_seed(0)
    layer = Layer(TEXT).double().eval()
    lengths_S = torch.tensor(lengths)
    packing = Packing.from_lengths(lengths_S, sum(lengths), max(lengths))
    last_S = lengths_S.cumsum(0) - 1
    x_TD = torch.randn(sum(lengths), TEXT.width, dtype=torch.float64)
    changed_TD = x_TD.index_add(0, last_S, torch.ones(len(lengths), TEXT.width, dtype=torch.float64))
    earlier_T = torch.ones(sum(lengths), dtype=torch.bool).index_fill(0, last_S, False)

    def change(causal: bool) -> Tensor:
        return (layer(x_TD, packing, causal=causal) - layer(changed_TD, packing, causal=causal)).abs()

    assert change(causal=True)[earlier_T].sum() == 0
    assert change(causal=True)[last_S].sum(1).min() > 0
    if earlier_T.any():
        assert change(causal=False)[earlier_T].max() > 1e-3
