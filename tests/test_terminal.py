"""Foreign text on a terminal is shown, not sent."""

from __future__ import annotations

import pytest

from xvlm.cli import main
from xvlm.terminal import escaped_output, notice

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
SHOWN = r"\x1b]0;owned\x07\x1b[2J"


def test_a_notice_shows_what_would_act(capsys: pytest.CaptureFixture[str]) -> None:
    notice(f"{ESCAPE}\u202e.png\nnext \ud83d")
    assert capsys.readouterr().err == SHOWN + r"\u202e.png\nnext \ud83d" + "\n"


def test_output_of_the_parser_is_escaped_and_streams_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    with escaped_output():
        print(f"a {ESCAPE}\nb")
    print(ESCAPE)
    assert capsys.readouterr().out == f"a {SHOWN}\nb\n{ESCAPE}\n"


@pytest.mark.parametrize(
    "words",
    [
        [f"{ESCAPE}x"],
        ["", "\t", "\ud83d"],
        ["ground", "a.png", "b", f"--{ESCAPE}"],
        ["train", "demo", f"--{ESCAPE}"],
    ],
)
def test_wrong_words_are_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser repeats what it does not know."""
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    said = capsys.readouterr().err
    assert code == 2 and said and "\x1b" not in said and "Traceback" not in said
    said.encode()


def test_commands_themselves_write_as_they_like(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress bars move the cursor: only the parser's output is escaped."""
    assert main(["recipes"]) == 0
    assert "base_4m" in capsys.readouterr().out
