"""Whose folder it is: a run begins only where nothing of anybody else's is, and where no step was taken."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.test_lock import end, hold
from tests.test_outputs import everything
from tests.tiny import tiny_loaded, tiny_run
from xvlm.cli import main
from xvlm.errors import InputError, MissingFileError, OutputError
from xvlm.model.folder import save_model
from xvlm.run import write_json
from xvlm.tasks._build import SourceConfig
from xvlm.train import run_folder, start
from xvlm.train.run_folder import check_run_folder, read_run, remove_run
from xvlm.train.start import train


def model_of_somebody(out: Path) -> None:
    (out / "model").mkdir()
    (out / "model" / "thesis.txt").write_text("years")


def trained_model(out: Path) -> None:
    save_model(tiny_loaded(), out / "model")


def model_folder(out: Path) -> None:
    save_model(tiny_loaded(), out)


def json_of_somebody(out: Path) -> None:
    (out / "run.json").write_text('{"start": "./main"}')


def log_of_somebody(out: Path) -> None:
    (out / "log.jsonl").write_text("10:15 began\n")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "there", [model_of_somebody, trained_model, model_folder, json_of_somebody, log_of_somebody]
)
def test_nothing_of_somebodys_is_replaced(there: Any, resume: bool, tmp_path: Path) -> None:
    out = tmp_path / "project"
    out.mkdir()
    there(out)
    (out / "notes.txt").write_text("mine")
    if there is model_folder:
        (out / "notes.txt").unlink()
    before = everything(out)
    with pytest.raises(OutputError, match="but no run of xvlm that they belong to; name another --out"):
        train(tiny_run("cnn", steps=1), out, resume=resume)
    assert everything(out) == before


def test_a_runs_own_model_with_more_in_it_is_refused_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", tiny_run())
    trained_model(tmp_path)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not a model folder of xvlm alone \(it holds notes"):
        check_run_folder(tiny_run(), tmp_path, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_no_step_was_taken_can_be_used(resume: bool, tmp_path: Path) -> None:
    """After a wrong path, say; with other settings too."""
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


def test_another_precision_only_where_the_person_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in bf16 goes on in fp32, which is said and recorded."""
    run = tiny_run("cnn", steps=2, save_every=1)
    train(run, tmp_path, minutes=0.0)
    before = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**before, "precision": "bf16"}))
    monkeypatch.setattr(start, "usable_precision", lambda precision, device: "fp32")
    write_json(tmp_path / "asked.json", replace(run, precision="bf16"))
    words = ["train", "--from", str(tmp_path / "asked.json"), "--out", str(tmp_path), "--resume"]
    assert main(words) == 2
    assert "precision was bf16, now it is fp32; --precision fp32 goes on so" in capsys.readouterr().err
    assert main([*words, "--precision", "fp32"]) == 0
    assert "goes on in fp32 after 1 steps in bf16" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == "fp32"
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row.get("event") for row in rows] == [None, "precision", None]
    assert rows[1] == {"step": 1, "event": "precision", "before": "bf16", "now": "fp32"}


def test_the_second_process_is_refused_by_name_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "asked.json", tiny_run("cnn"))
    process = hold(tmp_path / "out", "alone")
    before = everything(tmp_path / "out")
    words = ["train", "--from", str(tmp_path / "asked.json"), "--out", str(tmp_path / "out")]
    out = ["--out", str(tmp_path / "out")]
    measuring = ["eval", "grounding", "--model", "none", "--data", "none.json", *out]
    for one in (words, ["demo", *out], ["ablate", *out], ["photos", "none", *out], measuring):
        assert main(one) == 2
        said = capsys.readouterr().err
        assert f"in use by process {process.pid} on {socket.gethostname()} since" in said
    assert everything(tmp_path / "out") == before
    end(process)


def test_remove_run_leaves_what_is_not_the_runs(tmp_path: Path) -> None:
    for name in run_folder.WRITTEN:
        (tmp_path / "one" / name).mkdir(parents=True)
        (tmp_path / "two" / name).mkdir(parents=True)
    (tmp_path / "two" / "notes.txt").write_text("mine")
    for name in ("one", "two"):
        remove_run(tmp_path / name)
    assert everything(tmp_path) == {"two/notes.txt": b"mine"} and not (tmp_path / "one").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": "pretrain", "optim": 3}'])
def test_a_damaged_run_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError):
        read_run(tmp_path / "run.json")
    with pytest.raises(MissingFileError, match="is no file"):
        read_run(tmp_path / "other.json")
