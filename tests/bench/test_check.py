"""A ratio that is worse than the recorded one is an error that says by how much."""

from __future__ import annotations

from pathlib import Path

import pytest

from xvlm.bench.common.regression import BETTER, check, ratios, regressions
from xvlm.cli import main

RESULT = {
    "fp32": {"image_speedup": 2.0, "image_step_s": 9.0, "gemm_fraction": 0.7},
    "bf16": None,
    "transform_ratio": 1.2,
}


def test_ratios_are_selected_among_times() -> None:
    assert ratios(RESULT) == {"fp32.image_speedup": 2.0, "fp32.gemm_fraction": 0.7, "transform_ratio": 1.2}


@pytest.mark.parametrize("name", BETTER)
def test_a_tenth_is_tolerated_in_the_right_direction(name: str) -> None:
    better, slightly, much = (1.5, 0.92, 0.85) if BETTER[name] == "higher" else (0.5, 1.08, 1.2)
    assert regressions({name: better}, {name: 1.0}) == regressions({name: slightly}, {name: 1.0}) == []
    (sentence,) = regressions({name: much}, {name: 1.0})
    assert name in sentence and "1" in sentence


def test_an_unsupported_precision_is_no_regression() -> None:
    check(ratios(RESULT), {"fp32.image_speedup": 2.1, "bf16.image_speedup": 3.0}, "recorded.json")
    with pytest.raises(ValueError, match=r"recorded.json: fp32.image_speedup is 2, it was 3 \(-33%\)"):
        check(ratios(RESULT), {"fp32.image_speedup": 3.0}, "recorded.json")


def test_a_missing_file_is_named_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "step", "--check", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main(["bench", "walk"]) == 2
    assert "data, growth, mixed_step, rerank, step, waiting" in capsys.readouterr().err
    assert main(["bench", "step", "--recipe", "scenes/nlvr2"]) == 2
    assert "a pre-training recipe is needed" in capsys.readouterr().err
