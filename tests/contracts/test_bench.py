"""Every benchmark in xvlm/bench runs from the command line, on a small model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from xvlm.bench import growth
from xvlm.cli import main
from xvlm.registry import names

SMALL = {
    "step": ["--recipe", "demo", "--repeats", "1"],
    "mixed_step": ["--recipe", "demo", "--pairs", "3", "--region-images", "2", "--repeats", "1"],
    "rerank": ["--recipe", "demo", "--size", "64", "--images", "2", "--candidates", "8", "--repeats", "1"],
    "data": [
        *("--size", "64", "--images", "4", "--batch", "4", "--steps", "4", "--repeats", "1"),
        *("--pairs", "3", "--region-images", "2", "--step-ms", "50"),
    ],
    "waiting": [
        *("--recipe", "demo", "--pairs", "3", "--region-images", "2", "--images", "4"),
        *("--steps", "3", "--workers", "1"),
    ],
    "growth": ["--recipe", "demo", "--repeats", "1"],
}
"""Options that make each benchmark quick; a new benchmark needs a line here."""

MEASUREMENTS = {
    "step": (
        "image_step_s",
        "region_step_s",
        "image_useful_gflop",
        "region_useful_gflop",
        "gemm_fraction",
        "peak_rss_gb",
        "image_speedup",
        "region_speedup",
    ),
    "rerank": ("ms_per_pair", "speedup", "gemm_fraction"),
}


@pytest.mark.parametrize("name", names("bench"))
def test_it_runs_and_writes_its_measurements(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "SIZES", {curve: sizes[:2] for curve, sizes in growth.SIZES.items()})
    measured, ratios = tmp_path / "measured.json", tmp_path / "ratios.json"
    pictures = ["--pictures", str(tmp_path)] if name == "growth" else []
    assert (
        main(["bench", name, *SMALL[name], "--json", str(measured), "--ratios", str(ratios), *pictures]) == 0
    )
    result = json.loads(measured.read_text())
    assert capsys.readouterr().out
    if name in MEASUREMENTS:
        assert result["gemm_gflops_fp32"] > 1
        assert all(
            math.isfinite(result["fp32"][one]) and result["fp32"][one] > 0 for one in MEASUREMENTS[name]
        )
        assert {f"fp32.{one}" for one in MEASUREMENTS[name] if "speedup" in one} <= json.loads(
            ratios.read_text()
        ).keys()
        assert (result["bf16"] is None) == (result["gemm_gflops_bf16"] is None)
    if name == "step":
        assert result["largest_loss_difference"] < 1e-4
    if name == "data":
        assert result["images_per_s"] > 1 and result["transform_ratio"] > 0.5
        assert result["needed_images_per_s"] == pytest.approx(5 / 0.05)
        rates = ("pairs_images_per_s_and_core", "regions_images_per_s_and_core", "step_images_per_s")
        assert all(result[one] > 1 for one in rates) and result["cores"] >= 1
        assert result["needed_cores"] == pytest.approx(100 / result["step_images_per_s_and_core"])
    if name == "waiting":
        assert 0 <= result["data_share"] < 1 and result["steps"] == 3 and result["step_ms"] > 1
    if name == "growth":
        assert {path.name for path in tmp_path.glob("*.svg")} == {f"growth_{one}.svg" for one in growth.SIZES}
        assert all(len(result[one]["seconds"]) == 2 for one in growth.SIZES)
