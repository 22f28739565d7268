"""Useful operations: figures of the base model, and the count of PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import tiny_task
from xvlm.bench.common.batches import image_batch, region_batch, sample_lengths
from xvlm.bench.common.flops import keys_values_forward, layers_forward, per_token, step_work
from xvlm.bench.common.gemm_baseline import GemmBaseline
from xvlm.models.text.encoder import TextConfig
from xvlm.tasks.pretrain import LossConfig


def test_figures_of_the_base_model() -> None:
    base = TextConfig()
    assert per_token(base, cross=False) / 1e6 == pytest.approx(14.2, abs=0.05)
    assert per_token(base, cross=True) / 1e6 == pytest.approx(16.5, abs=0.05)
    assert keys_values_forward(base, 1024, 1) / base.cross_layers / 1e6 == pytest.approx(3.1, abs=0.05)


def test_texts_of_several_lengths_cost_the_sum() -> None:
    config = TextConfig(width=8, heads=2, mlp_width=16)
    for context in (0, 5):
        total = sum(layers_forward(config, torch.tensor([length]), 2, context) for length in (3, 7, 20))
        assert layers_forward(config, torch.tensor([3, 7, 20]), 2, context) == total
    assert layers_forward(config, torch.tensor([3]), 2, 6) > layers_forward(config, torch.tensor([3]), 2, 5)


@pytest.mark.parametrize("kind", ["cnn", "swin"])
def test_a_step_costs_about_what_pytorch_counts(kind: str) -> None:
    """PyTorch also counts padding, which is little if texts are equally long."""
    task = tiny_task(kind, losses=LossConfig(mlm=0.0), width=64, mlp_width=256).train()
    config = replace(task.model.config, text=replace(task.model.config.text, vocab_size=60))
    batch = image_batch(config, 6, (16.0, 0.0))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        torch.stack([*task(batch).values()]).sum().backward()
    # The last layer computes the first tokens alone, which is less than the definition of the model.
    assert 0.75 < counter.get_total_flops() / step_work(task, batch) < 1.1


def test_batches_have_the_lengths_of_real_texts() -> None:
    config = tiny_task().model.config
    batch = region_batch(config)
    assert len(batch.images) == 5 and len(batch.concepts) == 16
    assert batch.concepts.has_box_N.all() and batch.masked_target_M.numel() >= 16
    many = sample_lengths((7.5, 2.0), 4000, np.random.default_rng(0))
    assert min(many) >= 3 and sum(many) / len(many) == pytest.approx(7.5, abs=0.15)


def test_the_gemm_baseline_keeps_its_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []
    matmul = torch.matmul
    monkeypatch.setattr("xvlm.bench.common.gemm_baseline.SIDE", 8)
    monkeypatch.setattr(torch, "matmul", lambda a, b: dtypes.append(matmul(a, b).dtype))
    baseline = GemmBaseline(torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        baseline.sample()
    assert dtypes[0] == torch.float32
