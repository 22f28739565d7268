"""A job of `torchrun --max-restarts` goes on by itself when a rank is killed; no other run is continued."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import tiny_run
from tests.training.restarts import Job, assert_same, small_run
from xvlm.common.errors import InputError, OutputError
from xvlm.training import elastic
from xvlm.training.run_folder import read_run
from xvlm.training.train import train

STEPS = 12
NODES = (1, 2) if os.environ.get("XVLM_ALL_PROCESS_TESTS") == "1" else (2,)
"""Numbers of "nodes"; what happens on one happens on two."""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Job]]:
    """A job that nothing disturbs (0), and jobs on "nodes", a rank of which is killed."""
    folder, run = tmp_path_factory.mktemp("jobs"), small_run(STEPS)
    started = {0: Job.start(run, folder / "reference")}
    started |= {nodes: Job.start(run, folder / f"nodes{nodes}", nodes, restarts=2) for nodes in NODES}
    try:
        for nodes in NODES:
            started[nodes].kill_at(random.Random(nodes).randint(1, STEPS - 1), random.Random(nodes))
        yield started
    finally:
        for job in started.values():
            job.close()


@pytest.mark.parametrize("nodes", NODES)
def test_a_killed_rank_changes_nothing(nodes: int, jobs: dict[int, Job]) -> None:
    """`python -m tests.training.restarts 10` kills more often."""
    for job in (jobs[0], jobs[nodes]):
        job.wait()
    assert "torchrun started the run again, which goes on in" in jobs[nodes].output
    assert_same(jobs[nodes], jobs[0], STEPS)


@pytest.fixture
def under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")


def test_only_the_torchrun_that_began_a_run_continues_it(
    under_torchrun: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("cnn", steps=2, save_every=1)
    assert train(run, tmp_path, minutes=0.0)[1].step == 1
    with monkeypatch.context() as patch:
        patch.setattr(elastic, "_own_launcher", lambda: "host 1 2")
        patch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        for _ in range(2):  # torchrun starts again what was refused, and it is refused again
            with pytest.raises(OutputError, match="holds a run already; --resume goes on with it"):
                train(run, tmp_path)
    with pytest.raises(InputError, match="seed was 0, now it is 7"):
        train(replace(run, seed=7), tmp_path)
    assert train(run, tmp_path)[1].step == 2


def test_a_restart_before_the_first_checkpoint_begins_again(under_torchrun: None, tmp_path: Path) -> None:
    run = tiny_run("cnn", steps=1)
    (tmp_path / "run.json").write_text('{"recipe": "", "task": "pretrain", "optim": {}}')
    elastic.record_launchers(tmp_path, elastic.launchers())
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert train(run, tmp_path)[1].step == 1
    assert read_run(tmp_path / "run.json").optim.steps == 1


def test_without_torchrun_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    elastic.record_launchers(tmp_path, elastic.launchers())
    assert not list(tmp_path.iterdir()) and not elastic.is_restart(tmp_path, elastic.launchers())


@pytest.mark.parametrize("content", ["{}", "no JSON", "[]", '["host 1 2"]'])
def test_other_contents_of_the_file_are_no_restart(
    content: str, under_torchrun: None, tmp_path: Path
) -> None:
    (tmp_path / elastic.LAUNCHERS).write_text(content)
    assert not elastic.is_restart(tmp_path, elastic.launchers())
