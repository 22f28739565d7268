"""The numbers of a run reach Weights & Biases and MLflow, and a run that goes on is one run there."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_run
from xvlm.common.errors import InputError, MissingPackageError
from xvlm.common.json_file import read_json
from xvlm.training.trackers import open_trackers
from xvlm.training.train import train


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a data base is what people have
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    return tiny_run(steps=3)


def test_mlflow(run: Any, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    tracked = replace(run, trackers=("mlflow",), save_every=2)
    train(tracked, tmp_path / "out")
    longer = replace(tracked, optim=replace(tracked.optim, steps=5))
    train(longer, tmp_path / "out", resume=True)
    (found,) = mlflow.search_runs(experiment_names=["xvlm"], output_format="list")
    assert found.data.params["optim.lr"] == str(run.optim.lr)
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "loss")
    assert [one.step for one in history] == [1, 2, 3, 4, 5]


def test_a_server_that_cannot_be_reached_is_said_at_the_start(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"trackers 'mlflow' cannot begin: .*127\.0\.0\.1"):
        train(replace(run, trackers=("mlflow",)), tmp_path / "out")


def test_a_server_that_fails_later_does_not_end_the_training(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    asked = []

    def fail(numbers: Any, step: int) -> None:
        asked.append(step)
        raise mlflow.MlflowException("the server is gone\nfor good")

    monkeypatch.setattr(mlflow, "log_metrics", fail)
    _, state = train(replace(run, trackers=("mlflow",)), tmp_path / "out")
    assert state.step == 3 and asked == [1]
    said = "mlflow gets no numbers from step 1 on; log.jsonl has them: the server is gone"
    assert said in capsys.readouterr().err


def test_wandb_offline(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(replace(run, trackers=("wandb",)), tmp_path / "out")
    (folder,) = (tmp_path / "out/wandb").glob("offline-run-*")
    assert next(folder.glob("run-*.wandb")).stat().st_size > 1000


def test_a_run_that_goes_on_is_one_run_of_wandb_and_a_new_one_is_another(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tracked, found = replace(run, trackers=("wandb",)), []
    for steps, resume in ((3, False), (5, True), (3, False)):
        if not resume:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        train(replace(tracked, optim=replace(run.optim, steps=steps)), tmp_path / "out", resume=resume)
        found.append(read_json(tmp_path / "out/wandb.json")["id"])
    assert found[0] == found[1] != found[2]


def test_mlflow_without_a_server_writes_files(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(None)
    try:
        train(replace(run, trackers=("mlflow",)), tmp_path / "out")
        assert list((tmp_path / "mlruns").rglob("loss"))
    finally:
        mlflow.set_tracking_uri(before)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'xvlm\[tracking\]'"):
        open_trackers(("wandb",), tmp_path, {})
