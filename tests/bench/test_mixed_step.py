"""The benchmark of the mixed step measures what it says, on a small model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_run
from xvlm.bench import mixed_step


def test_every_quantity_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_step, "pretraining", lambda recipe: tiny_run())
    monkeypatch.setattr(mixed_step, "SIDES", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(mixed_step, "COPIED_BYTES", 2**16)
    result = mixed_step.bench(pairs=3, region_images=2, repeats=1)
    positive = ("step_s", "regions_step_s", "contrastive_only_step_s", "first_step_s", "useful_tflop")
    assert all(result[name] > 0 for name in (*positive, "gemm_fraction", "copy_gb_per_s", "peak_gb"))
    assert result["useful_tflop"] > result["regions_useful_tflop"]
    assert result["over_contrastive_only"] == result["step_s"] / result["contrastive_only_step_s"]
    assert result["host_s"] <= result["step_s"]
    assert 2 <= result["phrases"] <= 10


def test_the_batch_has_both_streams() -> None:
    config = replace(tiny_run().model)
    batch = mixed_step.mixed_batch(config, 3, 2)
    assert batch.pairs == 3 and len(batch.images) == 5
    assert torch.equal(batch.concepts.has_box_N, torch.arange(len(batch.concepts)) >= 3)


def test_the_time_of_a_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_step, "pretraining", lambda recipe: tiny_run())
    assert 0 < mixed_step.mixed_step_seconds("", pairs=3, region_images=0, repeats=1) < 60
