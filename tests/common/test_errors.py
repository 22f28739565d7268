"""Control characters in untrusted text are escaped before they reach a terminal."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_loaded
from xvlm import cli
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import printable
from xvlm.common.progress import Progress
from xvlm.models.checkpoints.folder import save_model
from xvlm.training.train import log_on_main


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;evil\x07", r"\x1b]0;evil\x07"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("good\rbad", r"good\rbad"),
        ("a\nxvlm: all is well", r"a\nxvlm: all is well"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("\x9b31m", r"\x9b31m"),
        ("half an emoji \ud83d", r"half an emoji \ud83d"),
        ("line\u2028break", r"line\u2028break"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("null\0", r"null\x00"),
    ],
)
def test_characters_that_act_on_a_terminal_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


@pytest.mark.parametrize(
    "text", ["a dog", "чёрный", "一只狗", "می‌خواهم", "👩‍🔬", "naïve – “x”", r"C:\new", "é e\u0301", "שלום"]
)
def test_readable_characters_are_unchanged(text: str) -> None:
    assert printable(text) == text


def test_newlines_may_be_kept() -> None:
    assert printable("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


def test_answers_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer({"answer": "\x1b]0;evil\x07", "score": 0.5}, as_json=False)
    print_answer({"answer": "\x1b]0;evil\x07"}, as_json=True)
    log_on_main("file \x1b[2J")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and r"\x1b]0;evil\x07" in out


def test_texts_from_the_command_line_are_escaped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    save_model(tiny_loaded(), tmp_path / "model")
    text = "dog \x1b]0;evil\x07"
    assert cli.main(["match", str(tmp_path / "a.png"), text, "--model", str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out.endswith("  dog \\x1b]0;evil\\x07\n")


def test_progress_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Progress("reading [red]\x1b]0;evil\x07", 2, line_seconds=-1)) as progress:
        progress.update(1, "loss\r\x1b[2J 1")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and r"reading [red]\x1b]0;evil\x07 1/2" in shown.replace("\n", "")
