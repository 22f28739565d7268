"""A run that waits for its data says so once, with the number of workers that would do."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.test_loop import Line, ToySteps, run_of
from xvlm.training import starvation
from xvlm.training.loop import fit
from xvlm.training.starvation import WARM_UP_STEPS, StarvationNotice


def printed(
    notice: StarvationNotice, waiting: float, total: float, steps: int, capsys: pytest.CaptureFixture[str]
) -> str:
    """What is printed when so many steps, after the first ones, take so many seconds."""
    for _ in range(WARM_UP_STEPS):
        notice.add(30.0, 31.0)
    for _ in range(steps):
        notice.add(waiting, total)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("workers", "cores", "ranks", "waiting", "expected"),
    [
        # Four workers read one step in 0.4 s, and a step computes for 0.2 s.
        (
            4,
            16,
            1,
            0.2,
            "waiting for data: --workers is 4, about 8 would be needed; this machine has 16 cores",
        ),
        (
            4,
            16,
            4,
            0.2,
            "about 8 would be needed, but this machine has 16 cores for 4 ranks; images that are",
        ),
        (
            4,
            4,
            1,
            0.2,
            "about 8 would be needed, but this machine has 4 cores; images that are stored smaller",
        ),
        (8, 4, 1, 0.2, "--workers is 8, about 8 would be needed, but this machine has 4 cores"),
        (0, 16, 1, 0.3, "reading data in the training process (--workers 0): --workers 3 would help; this"),
        (0, 16, 1, 0.05, "(--workers 0): --workers 1 would help; this machine has 16 cores"),
        (0, 1, 1, 0.3, "--workers 3 would help, but this machine has 1 core;"),
    ],
)
def test_the_sentence_says_what_is_lost_and_what_would_help(
    workers: int, cores: int, ranks: int, waiting: float, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(StarvationNotice(workers, cores, ranks), waiting, 0.4, 200, capsys)
    assert text.count("\n") == 1 and f"{waiting / 0.4:.0%} of the time of 50 steps was spent on " in text
    assert expected in text


def test_a_run_that_waits_little_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(StarvationNotice(4, 16, 1), 0.03, 0.4, 500, capsys) == ""


def test_short_windows_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny run ends before it can be judged: 49 long steps, or many steps within ten seconds."""
    assert printed(StarvationNotice(0, 2, 1), 3.0, 4.0, 49, capsys) == ""
    assert printed(StarvationNotice(0, 2, 1), 0.03, 0.04, 249, capsys) == ""


def test_data_that_were_read_ahead_hide_it_in_the_first_window_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notice = StarvationNotice(16, 16, 1)
    assert printed(notice, 0.0, 0.25, 50, capsys) == ""
    for _ in range(50):
        notice.add(0.125, 0.25)
    assert "about 32 would be needed" in capsys.readouterr().err


def test_only_the_main_rank_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starvation.distributed, "is_main", lambda: False)
    assert printed(StarvationNotice(4, 16, 2), 0.2, 0.4, 100, capsys) == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_with_a_slow_source_says_it_once(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starvation, "WINDOW_STEPS", 5)
    monkeypatch.setattr(starvation, "WINDOW_SECONDS", 0.01)
    run = replace(run_of(40), workers=workers)
    fit(Line(), ToySteps(on_read=lambda step: time.sleep(0.02)), run, tmp_path)
    errors = capsys.readouterr().err
    assert errors.count("% of the time of") == 1
    assert ("--workers 0" if workers == 0 else "--workers is 1") in errors
