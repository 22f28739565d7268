"""Two processes measure what one measures: no sample lost, none counted twice."""

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
from xvlm.model.folder import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    evaluations.write(folder)
    return folder


@pytest.fixture(scope="module")
def of_ranks(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(evaluations.everything, folder)


def same(found: Any, expected: Any, gap: float = 1e-6) -> bool:
    """Plain values within rounding: boxes pass through float32."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=gap, abs=gap)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k], gap) for k in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            same(*both, gap) for both in zip(found, expected, strict=True)
        )
    return found == expected


@pytest.mark.parametrize("part", evaluations.PARTS)
@pytest.mark.parametrize("name", evaluations.EVALUATIONS)
def test_two_ranks_measure_what_one_does(
    name: str, part: str, folder: Path, of_ranks: list[dict[str, dict[str, Any]]]
) -> None:
    one = evaluations.evaluated(name, part, folder)
    for rank in of_ranks:
        found = rank[f"{name}, {part}"]
        assert same(found["metrics"], one["metrics"]), (found["metrics"], one["metrics"])
        assert same(found["predictions"], one["predictions"])


def test_torchrun_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line, as a user starts it: one of the processes writes, what one process would."""
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
def test_every_record_is_asked_once(name: str, of_ranks: list[dict[str, dict[str, Any]]]) -> None:
    """In the source's order; what cannot be used is counted, whichever rank has found it."""
    metric, asked, bad = COUNTS[name]
    found = of_ranks[1][f"{name}, uneven"]
    assert found["metrics"][metric] == asked
    assert [v for k, v in found["metrics"].items() if k.endswith("bad_records")] == [bad]
    if name == "retrieval":
        assert [image["image"] for image in found["predictions"]["images"]] == [f"{n}.png" for n in range(5)]
        assert [text["image"] for text in found["predictions"]["texts"]] == [0, 0, 1, 1, *[2] * 6, 3, 3, 4, 4]
    else:
        keys = [one["key"] for one in found["predictions"]]
        assert len(keys) == asked and keys == sorted(keys)
