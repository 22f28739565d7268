"""Half a minute of fuzzing, the same cases every time; `python -m tests.fuzz --cases 2000` runs more.

Left out with `-m 'not slow'`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import KINDS
from tests.fuzz.case import Box, Call, Command, Reading
from tests.fuzz.server import Limits, run_case

CASES = 12  # of each kind; seconds differ from machine to machine, cases do not
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_input_hangs_crashes_writes_elsewhere_or_is_executed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES * len(KINDS)), "--seconds", "60"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def outcome(tmp_path: Path, function: object, seconds: float = 20.0) -> str:
    """The verdict on a case that does this."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "work").mkdir()

    def generate(rng: object, box: Box) -> Call:
        return Reading("a test", lambda: function(box))  # type: ignore[operator]

    return run_case(generate, "test", 0, tmp_path / "work", tmp_path / "kit", Limits(seconds)).verdict


def refuses(box: Box) -> None:
    from xvlm.common.errors import InputError

    raise InputError("no")


WRONG = {
    "returned": lambda box: None,
    "refused": refuses,
    "traceback": lambda box: {}["x"],
    "outside": lambda box: (box.root / "canary" / "a.txt").unlink() or (box.root / "x").touch(),
    "executed": lambda box: box.marker.touch(),
    "memory": lambda box: bytearray(4 * 2**30),
    "hang": lambda box: os.read(os.pipe()[0], 1),
}


@pytest.mark.parametrize("verdict", WRONG)
def test_what_is_wrong_is_seen(verdict: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, WRONG[verdict], seconds=2.0 if verdict == "hang" else 20.0) == verdict


def test_memory_that_a_case_inherits_is_not_its_own(tmp_path: Path) -> None:
    held = bytearray(3 * 2**28)
    limits = Limits(bytes=2**29)
    for name in ("kit", "work"):
        (tmp_path / name).mkdir()

    def run(needed: int) -> str:
        case = Reading("a test", lambda: bytes(bytearray(b"x") * needed))
        return run_case(lambda rng, box: case, "test", 0, tmp_path / "work", tmp_path / "kit", limits).verdict

    assert run(1) == "returned" and len(held) > limits.bytes
    assert run(2**30) == "memory"


def test_writing_beyond_its_root_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "mine.txt"
    assert outcome(tmp_path, lambda box: target.write_text("x")) == "outside"
    assert not target.exists()


def test_programs_and_the_network_are_refused(tmp_path: Path) -> None:
    import socket

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert outcome(tmp_path / "a", lambda box: os.system("true")) == "outside"
    assert outcome(tmp_path / "b", lambda box: socket.create_connection(("127.0.0.1", 9), 1)) == "outside"


def test_a_command_line_ends_with_0_or_2(tmp_path: Path) -> None:
    for name in ("kit", "work"):
        (tmp_path / name).mkdir()
    for words, verdict in ((("recipes",), "returned"), (("eval", "nothing"), "refused")):
        found = run_case(
            lambda rng, box, words=words: Command(words),
            "test",
            0,
            tmp_path / "work",
            tmp_path / "kit",
            Limits(),
        )
        assert found.verdict == verdict, found.detail
