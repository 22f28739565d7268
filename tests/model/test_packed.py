"""The packed, shared, one-call path computes what a padded path computes that shares nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model import padded
from tests.tiny import KINDS, TEXT, tiny_task, toy_parts
from xvlm.losses.matching import Negatives, draw_negatives
from xvlm.model.attention import attend, attend_with_mean
from xvlm.model.packing import Packing
from xvlm.model.text import Layer
from xvlm.tasks import pretrain
from xvlm.tasks._batch import PretrainBatch, collate
from xvlm.tasks.pretrain import Pretrain


def drawn_while(
    task: Pretrain, batch: PretrainBatch, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Negatives]]:
    """The task's losses, and the negatives that it drew for each part."""
    drawn: list[Negatives] = []

    def remember(*arguments: Any) -> Negatives:
        drawn.append(draw_negatives(*arguments))
        return drawn[-1]

    monkeypatch.setattr(pretrain, "draw_negatives", remember)
    losses = task(batch)
    return losses, dict(zip(("", "region_"), drawn, strict=True))


def gradients(task: Pretrain, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a sum in which every loss has another weight, so that none stands in for another."""
    names = sorted(losses)
    task.zero_grad()
    sum((i + 1) * losses[name] for i, name in enumerate(names)).backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def difference(a: Tensor, b: Tensor) -> float:
    """Of two tensors, relative to the second one's norm; one that is zero but for rounding counts as 0.01."""
    return ((a - b).norm() / b.norm().clamp(min=1e-2)).item()


CASES: list[tuple[str, int, dict[str, Any]]] = [
    *[(kind, 0, {}) for kind in KINDS],
    ("cnn", 1, {"pooling": "mean", "box_head": "point"}),
    ("vit", 2, {"pooling": "mean", "box_head": "point"}),
    ("swin", 0, {"first_position": 2, "type_vocab_size": 1}),
]


@pytest.mark.parametrize(("kind", "fused_per_image", "config"), CASES)
def test_losses_and_gradients_equal_the_padded_path(
    kind: str, fused_per_image: int, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_task(kind, **config).double().train()
    batch = collate(toy_parts(pairs=4, regions=(4, 1, 5, 2)), fused_per_image)
    assert 1 in batch.texts.lengths_N and len(batch.texts.lengths_N.unique()) > 4

    torch.manual_seed(0)
    packed, negatives = drawn_while(task, batch, monkeypatch)
    packed_gradients = gradients(task, packed)
    plain = padded.losses(task, batch, negatives)
    plain_gradients = gradients(task, plain)

    assert plain.keys() == packed.keys() == set(task.loss_weights())
    for name, value in plain.items():
        assert value.dtype == packed[name].dtype == torch.float64, name
        assert difference(packed[name], value) < 1e-6, name
    assert plain_gradients.keys() == packed_gradients.keys()
    for name, value in plain_gradients.items():
        assert difference(packed_gradients[name], value) < 1e-6, name


@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_parameter_gets_a_gradient(kind: str) -> None:
    """DDP waits for all of them."""
    task = tiny_task(kind).train()
    given = gradients(task, task(collate(toy_parts())))
    wanted = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert wanted - given.keys() == set()


def test_float32_is_near_float64() -> None:
    batch = collate(toy_parts())
    task = tiny_task("cnn").train()
    torch.manual_seed(0)
    single = task(batch)
    torch.manual_seed(0)
    double = tiny_task("cnn").train().double()(batch)
    for name, value in single.items():
        if "itm" not in name:  # whose negatives may differ
            assert value.item() == pytest.approx(double[name].item(), rel=1e-4), name


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
    mask = mask[:, :, :1].expand_as(mask)  # one concept a set
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
def test_causal_layers_see_no_later_token(lengths: list[int]) -> None:
    """Changing the last token of every text changes nothing before it; without `causal` it does."""
    torch.manual_seed(0)
    layer = Layer(TEXT).double().eval()
    lengths_S = torch.tensor(lengths)
    packing = Packing.of(lengths_S, sum(lengths), max(lengths))
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
