"""Without a terminal, progress is shown as lines, and short work shows nothing."""

from __future__ import annotations

from contextlib import closing

import pytest

from xvlm.common.progress import Progress, clock, progress_bar


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Progress("a line [bold]unchanged[/bold]", 3, start=1, line_seconds=0.0)) as progress:
        progress.update(2, "loss 2.5")
        progress.update(3)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("a line [bold]unchanged[/bold] 2/3  loss 2.5  0:0") and first.endswith(" left")
    assert second == "a line [bold]unchanged[/bold] 3/3  0:00 left"


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar("abc", "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_clock() -> None:
    assert clock(3725.9) == "62:05"
