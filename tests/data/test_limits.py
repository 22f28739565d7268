"""Limits reach every reader: forked and spawned data workers, runs, and commands."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.tiny import tiny_loaded, tiny_run
from xvlm.cli import main
from xvlm.common.errors import InputError
from xvlm.common.json_file import to_json
from xvlm.config import from_json
from xvlm.data.files.limits import (
    Limits,
    change_limits,
    current_limits,
    set_limits,
    temporary_limits,
    worker_init_fn,
)
from xvlm.models.checkpoints.folder import save_model
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training.run_folder import check_same_run
from xvlm.training.train import train


@pytest.fixture(autouse=True)
def restored_limits() -> Any:
    before = current_limits()
    yield
    set_limits(before)


class _Limits(Dataset[int]):
    """A data set of the limits that a worker has."""

    def __getitem__(self, index: int) -> tuple[int, bool]:
        return current_limits().max_pixels, current_limits().allow_remote

    def __len__(self) -> int:
        return 1


def test_workers_have_the_limits_of_their_parent() -> None:
    """A forked worker inherits them, a spawned one gets them with its `worker_init_fn`."""
    with temporary_limits(max_pixels=77, allow_remote=True):
        loader = DataLoader(_Limits(), batch_size=None, num_workers=1, worker_init_fn=worker_init_fn())
        assert [list(limits) for limits in loader] == [[77, True]]
        start = pickle.dumps(worker_init_fn())
    assert current_limits() == Limits()
    pickle.loads(start)(0)
    assert current_limits() == Limits(max_pixels=77, allow_remote=True)


def test_values_out_of_range_are_refused() -> None:
    for fields, message in (({"max_pixels": 0}, "at least 1"), ({"significant_bits": 17}, "must be 1 to 16")):
        with pytest.raises(InputError, match=message):
            change_limits(**fields)


def test_a_run_sets_them(tmp_path: Path) -> None:
    """Scenes of 64 x 64 pixels are too large for the first run, so every record is bad."""
    run = tiny_run(steps=1, max_pixels=64 * 64 - 1)
    with pytest.raises(Exception, match="image too large"):
        train(run, tmp_path / "run")
    train(tiny_run(steps=1, max_pixels=64 * 64), tmp_path / "other")
    assert current_limits().max_pixels == 64 * 64


def test_older_runs_resume_and_permissions_may_change(tmp_path: Path) -> None:
    run = tiny_run(steps=1)
    train(run, tmp_path)
    data = json.loads((tmp_path / "run.json").read_text())
    newer = ("max_pixels", "significant_bits", "allow_remote", "allow_private")
    assert all(name in data for name in newer)
    old = {name: value for name, value in data.items() if name not in newer}
    assert from_json(PretrainRun, old) == from_json(PretrainRun, data)
    (tmp_path / "run.json").write_text(json.dumps(old))
    train(tiny_run(steps=2, max_pixels=10**6, allow_remote=True), tmp_path, resume=True)
    with pytest.raises(InputError, match="significant_bits was 0, now it is 12"):
        check_same_run(tiny_run(significant_bits=12), to_json(tiny_run()), tmp_path)


def test_commands_have_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "text": "dog", "bbox": [1, 1, 9, 9]}\n')
    save_model(tiny_loaded(), tmp_path / "model")
    model = ["--model", str(tmp_path / "model")]
    ground = ["ground", str(tmp_path / "a.png"), "dog", *model]
    assert main([*ground, "--max-pixels", "1199"]) == 2
    message = "40 x 30, at most 1,199 pixels allowed; --max-pixels allows more"
    assert message in capsys.readouterr().err
    assert main([*ground, "--max-pixels", "1200"]) == 0
    files = ["--data", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "o")]
    evaluate = ["eval", "grounding", *model, *files]
    assert main([*evaluate, "--max-pixels", "1199"]) == 2
    assert message in capsys.readouterr().err
    assert main([*evaluate, "--max-pixels", "1200"]) == 0
    (tmp_path / "a.jsonl").write_text('{"image": "memory://a.png", "text": "dog", "bbox": [1, 1, 9, 9]}\n')
    assert main(evaluate) == 2
    assert "--allow-remote allows URLs in data files" in capsys.readouterr().err
    assert main([*evaluate, "--allow-remote"]) == 2
    assert "image file missing" in capsys.readouterr().err
