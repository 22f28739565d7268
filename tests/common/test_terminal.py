"""Untrusted text is escaped before it reaches a terminal."""

from __future__ import annotations

import pytest

from xvlm.cli import main
from xvlm.common.terminal import escaped_output, print_notice

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
SHOWN = r"\x1b]0;owned\x07\x1b[2J"


def test_a_notice_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_notice(f"{ESCAPE}\u202e.png\nnext \ud83d")
    assert capsys.readouterr().err == SHOWN + r"\u202e.png\nnext \ud83d" + "\n"


def test_output_of_the_parser_is_escaped_and_streams_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_wrong_words_are_escaped(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser repeats words that it does not know."""
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    errors = capsys.readouterr().err
    assert code == 2 and errors and "\x1b" not in errors and "Traceback" not in errors
    errors.encode()


def test_output_of_commands_is_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress bars move the cursor, so only the parser's output is escaped."""
    assert main(["recipes"]) == 0
    assert "published/base_4m" in capsys.readouterr().out
