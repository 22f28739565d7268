"""Without a terminal, lines; short work says nothing."""

from __future__ import annotations

import pytest

from xvlm.progress import Progress, clock, tracked


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a line [bold]as it is[/bold]", 3, start=1, line_seconds=0.0) as progress:
        progress.update(2, "loss 2.5")
        progress.update(3)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("a line [bold]as it is[/bold] 2/3  loss 2.5  0:0") and first.endswith(" left")
    assert second == "a line [bold]as it is[/bold] 3/3  0:00 left"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked("abc", "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_clock() -> None:
    assert clock(3725.9) == "62:05"
