"""Folders of the version before this one (commit bfa77dd) load, and their runs go on bit for bit.

`data` holds a run of each task, stopped after 2 of 4 steps, with what the uninterrupted run logged and the
checksums of its final weights.  Runs are drawn from scenes, so nothing else is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import photo
from xvlm.common.renames import HEADS
from xvlm.predict import Predictor
from xvlm.training.run_folder import read_run
from xvlm.training.train import train

DATA = Path(__file__).parent / "data"
RUNS = ["pretrain", "vqa", "nlvr2", "captioning", "vqa_from_model"]
TIMES = {"seconds", "images_per_s", "data_share"}


def renamed(name: str) -> str:
    head, _, rest = name.partition(".")
    return f"{HEADS.get(head, head)}.{rest}"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact where the machine computes as the one that made the data did; else within rounding."""
    monkeypatch.chdir(DATA)  # `vqa_from_model` begins with the model folder beside it
    out = tmp_path / "run"
    shutil.copytree(DATA / name, out)
    expected: dict[str, Any] = json.loads((DATA / f"{name}_expected.json").read_text())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(read_run(out / "run.json"), out, resume=True)
    finally:
        torch.set_num_threads(threads)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, wanted in zip(rows, expected["rows"], strict=True):
        assert row.keys() == wanted.keys()
        for key in row.keys() - TIMES:
            assert row[key] == pytest.approx(wanted[key], rel=1e-5), key
    tensors = load_file(out / "model" / "model.safetensors")
    assert tensors.keys() == {renamed(name) for name in expected["sha256"]}
    found = {
        name: hashlib.sha256(tensors[renamed(name)].contiguous().numpy().tobytes()).hexdigest()
        for name in expected["sha256"]
    }
    same = [name for name in found if found[name] == expected["sha256"][name]]
    if rows[2]["loss"] == expected["rows"][2]["loss"]:  # the machine rounds as that one did
        assert len(same) == len(found), sorted(set(found) - set(same))


def test_a_model_folder_loads_and_answers() -> None:
    predictor = Predictor.load(DATA / "entailment_model")
    assert predictor.model.config.heads == ("classifier",)
    expected = json.loads((DATA / "entailment_expected.json").read_text())
    answer = predictor.image(photo(50, 70, 0)).entails("a red circle")
    assert answer.probabilities == pytest.approx(expected, rel=1e-5)
