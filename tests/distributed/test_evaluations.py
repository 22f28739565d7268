"""Two processes have the metrics of one: no sample is lost or counted twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import evaluations
from tests.distributed.ranks import on_two_ranks
from tests.tiny import tiny_loaded, write_photos
from xvlm.cli import main
from xvlm.models.checkpoints.folder import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    evaluations.write(folder)
    return folder


@pytest.fixture(scope="module")
def of_ranks(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(evaluations.everything, folder)


def same(actual: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Compare plain values up to rounding: boxes are converted to float32."""
    if isinstance(expected, float):
        return actual == pytest.approx(expected, rel=tolerance, abs=tolerance)
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            same(actual[key], expected[key], tolerance) for key in expected
        )
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(
            same(*both, tolerance) for both in zip(actual, expected, strict=True)
        )
    return actual == expected


@pytest.mark.parametrize("part", evaluations.PARTS)
@pytest.mark.parametrize("name", evaluations.EVALUATIONS)
def test_two_ranks_have_the_metrics_of_one(
    name: str, part: str, folder: Path, of_ranks: list[dict[str, dict[str, Any]]]
) -> None:
    one = evaluations.evaluated(name, part, folder)
    for rank in of_ranks:
        two = rank[f"{name}, {part}"]
        assert same(two["metrics"], one["metrics"]), (two["metrics"], one["metrics"])
        assert same(two["predictions"], one["predictions"])


def test_torchrun_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: one of the processes writes the files of a single process."""
    save_model(tiny_loaded("cnn"), tmp_path / "model")
    words = ["eval", "retrieval", "--model", str(tmp_path / "model"), "--top", "2"]
    words += ["--data", str(write_photos(tmp_path, 5)), "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, "-m", "xvlm", *words, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert main([*words, str(tmp_path / "one")]) == 0
    assert json.loads(done.stdout) == json.loads(capsys.readouterr().out)
    for name in ("metrics.json", "predictions.json"):
        one, two = (json.loads((tmp_path / folder / name).read_text()) for folder in ("one", "two"))
        assert same(two, one, 1e-3)  # float32, in other batches


COUNTS = {
    "grounding": ("grounding_cases", 8, 2),
    "weak grounding": ("weak_grounding_cases", 8, 2),
    "questions": ("vqa_questions", 7, 1),
    "pairs": ("nlvr2_statements", 7, 1),
    "hypotheses": ("entailment_hypotheses", 7, 1),
    "captions": ("caption_images", 6, 1),
    "retrieval": ("retrieval_texts", 14, 2),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_sample_is_evaluated_once(name: str, of_ranks: list[dict[str, dict[str, Any]]]) -> None:
    """In the order of the source; skipped samples of both ranks are counted."""
    metric, evaluated, skipped = COUNTS[name]
    result = of_ranks[1][f"{name}, uneven"]
    assert result["metrics"][metric] == evaluated
    assert [v for k, v in result["metrics"].items() if k.endswith("_skipped")] == [skipped]
    if name == "retrieval":
        assert [image["image"] for image in result["predictions"]["images"]] == [f"{n}.png" for n in range(5)]
        assert [text["image"] for text in result["predictions"]["texts"]] == [
            0,
            0,
            1,
            1,
            *[2] * 6,
            3,
            3,
            4,
            4,
        ]
    else:
        keys = [one["key"] for one in result["predictions"]]
        assert len(keys) == evaluated and keys == sorted(keys)
