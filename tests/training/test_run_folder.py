"""A run begins only in a folder without foreign files and without steps of another run."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.common.test_lock import end, hold
from tests.common.test_outputs import read_all
from tests.tiny import tiny_loaded, tiny_run
from xvlm.cli import main
from xvlm.common.errors import InputError, MissingFileError, OutputError
from xvlm.common.json_file import write_json
from xvlm.models.checkpoints.folder import save_model
from xvlm.tasks.common.sources import SourceConfig
from xvlm.training import run_folder
from xvlm.training import train as start
from xvlm.training.run_folder import check_run_folder, read_run, remove_run
from xvlm.training.train import train


def foreign_model(out: Path) -> None:
    (out / "model").mkdir()
    (out / "model" / "thesis.txt").write_text("years")


def trained_model(out: Path) -> None:
    save_model(tiny_loaded(), out / "model")


def model_folder(out: Path) -> None:
    save_model(tiny_loaded(), out)


def foreign_json(out: Path) -> None:
    (out / "run.json").write_text('{"start": "./main"}')


def foreign_log(out: Path) -> None:
    (out / "log.jsonl").write_text("10:15 began\n")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("create", [foreign_model, trained_model, model_folder, foreign_json, foreign_log])
def test_foreign_files_are_not_replaced(create: Any, resume: bool, tmp_path: Path) -> None:
    out = tmp_path / "project"
    out.mkdir()
    create(out)
    (out / "notes.txt").write_text("mine")
    if create is model_folder:
        (out / "notes.txt").unlink()
    before = read_all(out)
    with pytest.raises(OutputError, match="but no run of xvlm that they belong to; name another --out"):
        train(tiny_run("cnn", steps=1), out, resume=resume)
    assert read_all(out) == before


def test_a_model_folder_with_foreign_files_is_an_error_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", tiny_run())
    trained_model(tmp_path)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not a model folder of xvlm alone \(it holds notes"):
        check_run_folder(tiny_run(), tmp_path, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_no_step_was_taken_can_be_used(resume: bool, tmp_path: Path) -> None:
    """For example after a wrong path, and with other settings."""
    missing = (SourceConfig(str(tmp_path / "missing.jsonl")),)
    run = tiny_run("cnn", steps=1)
    wrong = replace(run, data=replace(run.data, pairs=missing), seed=7)
    with pytest.raises(MissingFileError):
        train(wrong, tmp_path / "out")
    (tmp_path / "out" / "log.jsonl").write_text("")  # as it is before the first step
    (tmp_path / "out" / "tokenizer.json").write_text("{")
    _, state = train(run, tmp_path / "out", resume=resume)
    assert state.step == 1 and read_run(tmp_path / "out" / "run.json").seed == 0
    with pytest.raises(OutputError, match="holds a run already; --resume goes on with it"):
        train(run, tmp_path / "out")
    with pytest.raises(InputError, match="seed was 0, now it is 7"):
        train(replace(run, seed=7), tmp_path / "out", resume=True)
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    with pytest.raises(OutputError, match="checkpoints are gone"):
        train(run, tmp_path / "out", resume=True)


def test_the_precision_changes_only_if_the_user_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in bf16 continues in fp32, with a notice and a row in the log."""
    run = tiny_run("cnn", steps=2, save_every=1)
    train(run, tmp_path, minutes=0.0)
    before = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**before, "precision": "bf16"}))
    monkeypatch.setattr(start, "usable_precision", lambda precision, device: "fp32")
    write_json(tmp_path / "wanted.json", replace(run, precision="bf16"))
    words = ["train", "--from", str(tmp_path / "wanted.json"), "--out", str(tmp_path), "--resume"]
    assert main(words) == 2
    assert "precision was bf16, now it is fp32; --precision fp32 goes on so" in capsys.readouterr().err
    assert main([*words, "--precision", "fp32"]) == 0
    assert "goes on in fp32 after 1 steps in bf16" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == "fp32"
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row.get("event") for row in rows] == [None, "precision", None]
    assert rows[1] == {"step": 1, "event": "precision", "before": "bf16", "now": "fp32"}


def test_the_error_of_a_second_process_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "wanted.json", tiny_run("cnn"))
    process = hold(tmp_path / "out", "alone")
    before = read_all(tmp_path / "out")
    words = ["train", "--from", str(tmp_path / "wanted.json"), "--out", str(tmp_path / "out")]
    out = ["--out", str(tmp_path / "out")]
    evaluation = ["eval", "grounding", "--model", "none", "--data", "none.json", *out]
    for line in (words, ["demo", *out], ["ablate", *out], ["photos", "none", *out], evaluation):
        assert main(line) == 2
        errors = capsys.readouterr().err
        assert f"in use by process {process.pid} on {socket.gethostname()} since" in errors
    assert read_all(tmp_path / "out") == before
    end(process)


def test_remove_run_leaves_foreign_files(tmp_path: Path) -> None:
    for name in run_folder.RUN_ENTRIES:
        (tmp_path / "one" / name).mkdir(parents=True)
        (tmp_path / "two" / name).mkdir(parents=True)
    (tmp_path / "two" / "notes.txt").write_text("mine")
    for name in ("one", "two"):
        remove_run(tmp_path / name)
    assert read_all(tmp_path) == {"two/notes.txt": b"mine"} and not (tmp_path / "one").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": "pretrain", "optim": 3}'])
def test_a_damaged_run_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError):
        read_run(tmp_path / "run.json")
    with pytest.raises(MissingFileError, match="is not a file"):
        read_run(tmp_path / "other.json")
