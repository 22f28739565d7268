"""Limits reach every reader: data workers however they start, runs, and commands."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.tiny import tiny_loaded, tiny_run
from xvlm import cli
from xvlm.data.limits import Limits, change_limits, current, in_workers, limited, set_limits
from xvlm.errors import InputError
from xvlm.model.folder import save_model
from xvlm.run import from_json, to_json
from xvlm.tasks.pretrain import PretrainRun
from xvlm.train.run_folder import check_same
from xvlm.train.start import train


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    before = current()
    yield
    set_limits(before)


class _Limits(Dataset[int]):
    """What a worker may read."""

    def __getitem__(self, index: int) -> tuple[int, bool]:
        return current().max_pixels, current().allow_remote

    def __len__(self) -> int:
        return 1


def test_workers_have_them() -> None:
    """Forked ones inherit them, spawned ones get them with what they start by."""
    with limited(max_pixels=77, allow_remote=True):
        loader = DataLoader(_Limits(), batch_size=None, num_workers=1, worker_init_fn=in_workers())
        assert [list(found) for found in loader] == [[77, True]]
        start = pickle.dumps(in_workers())
    assert current() == Limits()
    pickle.loads(start)(0)
    assert current() == Limits(max_pixels=77, allow_remote=True)


def test_values_out_of_range_are_refused() -> None:
    for fields, said in (({"max_pixels": 0}, "at least 1"), ({"significant_bits": 17}, "1 to 16 is allowed")):
        with pytest.raises(InputError, match=said):
            change_limits(**fields)


def test_a_run_sets_them(tmp_path: Path) -> None:
    """Scenes of 64 x 64 pixels are too large; every record is then bad."""
    run = tiny_run(steps=1, max_pixels=64 * 64 - 1)
    with pytest.raises(Exception, match="image too large"):
        train(run, tmp_path / "run")
    train(tiny_run(steps=1, max_pixels=64 * 64), tmp_path / "other")
    assert current().max_pixels == 64 * 64


def test_runs_that_are_older_go_on_and_permissions_may_change(tmp_path: Path) -> None:
    run = tiny_run(steps=1)
    train(run, tmp_path)
    data = json.loads((tmp_path / "run.json").read_text())
    younger = ("max_pixels", "significant_bits", "allow_remote", "allow_private")
    assert all(name in data for name in younger)
    old = {name: value for name, value in data.items() if name not in younger}
    assert from_json(PretrainRun, old) == from_json(PretrainRun, data)
    (tmp_path / "run.json").write_text(json.dumps(old))
    train(tiny_run(steps=2, max_pixels=10**6, allow_remote=True), tmp_path, resume=True)
    with pytest.raises(InputError, match="significant_bits was 0, now it is 12"):
        check_same(tiny_run(significant_bits=12), to_json(tiny_run()), tmp_path)


def test_commands_have_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "text": "dog", "bbox": [1, 1, 9, 9]}\n')
    save_model(tiny_loaded(), tmp_path / "model")
    model = ["--model", str(tmp_path / "model")]
    ground = ["ground", str(tmp_path / "a.png"), "dog", *model]
    assert cli.main([*ground, "--max-pixels", "1199"]) == 2
    said = "40 x 30, at most 1,199 pixels allowed; --max-pixels allows more"
    assert said in capsys.readouterr().err
    assert cli.main([*ground, "--max-pixels", "1200"]) == 0
    evaluate = [
        "eval",
        "grounding",
        *model,
        "--data",
        str(tmp_path / "a.jsonl"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert cli.main([*evaluate, "--max-pixels", "1199"]) == 2
    assert said in capsys.readouterr().err
    assert cli.main([*evaluate, "--max-pixels", "1200"]) == 0
    (tmp_path / "a.jsonl").write_text('{"image": "memory://a.png", "text": "dog", "bbox": [1, 1, 9, 9]}\n')
    assert cli.main(evaluate) == 2
    assert "--allow-remote allows URLs in data files" in capsys.readouterr().err
    assert cli.main([*evaluate, "--allow-remote"]) == 2
    assert "image file missing" in capsys.readouterr().err
