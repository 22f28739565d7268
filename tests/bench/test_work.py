"""Useful operations: figures of the plan, and what PyTorch counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import tiny_task
from xvlm.bench._batches import image_batch, lengths, region_batch
from xvlm.bench._work import cross_forward, keys_values_forward, per_token, step_work, text_forward
from xvlm.bench._yardstick import Yardstick
from xvlm.model.text import TextConfig
from xvlm.tasks.pretrain import LossConfig


def test_the_plans_figures() -> None:
    base = TextConfig()
    assert per_token(base, cross=False) / 1e6 == pytest.approx(14.2, abs=0.05)
    assert per_token(base, cross=True) / 1e6 == pytest.approx(16.5, abs=0.05)
    assert keys_values_forward(base, 1024, 1) / base.cross_layers / 1e6 == pytest.approx(3.1, abs=0.05)


def test_texts_of_several_lengths_cost_the_sum() -> None:
    config = TextConfig(width=8, heads=2, mlp_width=16, cross_layers=2)
    several = torch.tensor([3, 7, 20])
    assert text_forward(config, several, 2) == sum(
        text_forward(config, torch.tensor([int(one)]), 2) for one in several
    )
    assert cross_forward(config, several, 5) == sum(
        cross_forward(config, torch.tensor([int(one)]), 5) for one in several
    )
    assert cross_forward(config, several, 6) > cross_forward(config, several, 5)


@pytest.mark.parametrize("kind", ["cnn", "swin"])
def test_a_step_costs_about_what_pytorch_counts(kind: str) -> None:
    """Counted in a step that pads: more than is useful, by little where texts are equally long."""
    task = tiny_task(kind, losses=LossConfig(mlm=0.0), width=64, mlp_width=256).train()
    config = replace(task.model.config, text=replace(task.model.config.text, vocab_size=60))
    batch = image_batch(config, 6, (16.0, 0.0))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        torch.stack([*task(batch).values()]).sum().backward()
    # The last layer is computed for first tokens alone, which is less than the model's definition.
    assert 0.75 < counter.get_total_flops() / step_work(task, batch) < 1.1


def test_batches_have_the_lengths_of_real_texts() -> None:
    config = tiny_task().model.config
    batch = region_batch(config)
    assert len(batch.images) == 5 and len(batch.concepts) == 16
    assert batch.concepts.has_box_N.all() and batch.masked_target_M.numel() >= 16
    many = lengths((7.5, 2.0), 4000, np.random.default_rng(0))
    assert min(many) >= 3 and sum(many) / len(many) == pytest.approx(7.5, abs=0.15)


def test_the_yardstick_keeps_its_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    matmul = torch.matmul
    monkeypatch.setattr("xvlm.bench._yardstick.SIDE", 8)
    monkeypatch.setattr(torch, "matmul", lambda a, b: seen.append(matmul(a, b).dtype))
    yardstick = Yardstick(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        yardstick.sample()
    assert seen[0] == torch.float32
