"""Each kind of failure has its message and exit code."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xvlm import distributed
from xvlm.cli.common.failures import EXTRAS, exit_code, sentence
from xvlm.common.errors import InputError, MissingFileError, NotFiniteError, OutputError, printable
from xvlm.records import BadRecord
from xvlm.training.loop import Interrupted


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def report_of(capsys: pytest.CaptureFixture[str], error: BaseException) -> tuple[int, str]:
    code = exit_code(raising(error), ["train", "demo", "a b"])
    return code, capsys.readouterr().err


def system_error(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), names[0], None, *names[1:])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("steps is 0; it must be at least 1"), "steps is 0; it must be at least 1"),
        (MissingFileError("gone"), "gone"),
        (NotFiniteError("step 3: a loss is not finite"), "step 3: a loss is not finite"),
        (OutputError("out holds a run already"), "out holds a run already"),
        (BadRecord("image file missing", "a.jpg"), "a.jpg: image file missing"),
        (InputError("two\nlines \x1b[31m"), "two\\nlines \\x1b[31m"),
        (system_error(errno.ENOENT, "a.json"), "a.json does not exist"),
        (system_error(errno.EACCES, "a.json"), "a.json may not be read or written: permission denied"),
        (system_error(errno.EISDIR, "a.json"), "a.json is a folder; a file is needed"),
        (system_error(errno.ENOTDIR, "a/b"), "a/b is not a folder, or lies below a file"),
        (system_error(errno.ENOSPC, "out/x"), "out/x cannot be written: no space is left on the disk"),
        (OSError(errno.ENOSPC, "No space"), "a file cannot be written: no space is left on the disk"),
        (system_error(errno.EROFS, "out/x"), "out/x cannot be written: the file system is read-only"),
        (system_error(errno.ENAMETOOLONG, "xx"), "xx cannot be used: the name is too long"),
        (system_error(errno.ELOOP, "xx"), "xx cannot be used: its symbolic links form a loop"),
        (system_error(errno.EXDEV, "a", "b"), "a -> b cannot be used: Invalid cross-device link"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"a\xff.jpg"), "a\\udcff.jpg does not exist"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "the network does not answer: "),
        (
            MemoryError("Unable to allocate 9 TiB\nmore"),
            "memory ran out (Unable to allocate 9 TiB); smaller batches, --activation-checkpointing",
        ),
        (MemoryError(), "memory ran out (MemoryError); smaller batches"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory ran out (CUDA out of memory.); smaller"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out (DefaultCPU"),
        (
            ModuleNotFoundError("No module", name="onnx.checker"),
            "needs the Python package onnx: pip",
        ),
        (ModuleNotFoundError("No module", name="pycocoevalcap"), "pip install 'xvlm[metrics]'"),
    ],
)
def test_expected_failures_are_one_sentence(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XVLM_DEBUG", raising=False)
    code, err = report_of(capsys, error)
    assert code == 2
    assert err.startswith("xvlm: ") and message in err and err.count("\n") == 1


def test_an_allocation_that_really_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code = exit_code(lambda: torch.empty(10**16), [])
    assert code == 2 and capsys.readouterr().err.startswith("xvlm: memory ran out (")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("of a library"),
        ZeroDivisionError(),
        OSError(errno.EINVAL, "Invalid argument"),
        ModuleNotFoundError("No module named 'xvlm.gone'", name="xvlm.gone"),
        RuntimeError("ProcessGroupGloo: tensors differ"),
    ],
)
def test_unexpected_failures_keep_their_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = report_of(capsys, error)
    assert code == 1 and sentence(error) is None
    assert err.startswith("Traceback (most recent call last)") and "in call\n    raise error" in err
    last = err.splitlines()[-1]
    assert last.startswith("xvlm: this is a fault of the program; please report it")
    assert "xvlm 0." in last and f"torch {torch.__version__}" in last and "xvlm train demo 'a b'" in last


def test_tracebacks_are_printed_without_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = report_of(capsys, KeyError("\x1b]0;evil\x07"))
    assert "\x1b" not in err and "\x07" not in err


def test_debugging_shows_the_traceback_of_expected_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XVLM_DEBUG", "1")
    code, err = report_of(capsys, InputError("steps is 0"))
    assert code == 2 and err.startswith("Traceback") and err.endswith("\nxvlm: steps is 0\n")
    monkeypatch.setenv("XVLM_DEBUG", "0")
    assert report_of(capsys, InputError("steps is 0")) == (2, "xvlm: steps is 0\n")


def test_interruptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_of(capsys, KeyboardInterrupt()) == (130, "xvlm: interrupted\n")
    assert report_of(capsys, Interrupted("stopped after step 3")) == (130, "stopped after step 3\n")
    with pytest.raises(SystemExit):
        exit_code(raising(SystemExit(2)))
    assert exit_code(lambda: None) == 0


def test_a_lost_peer_of_a_job_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4242")
    assert sentence(lost) is None
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    message = sentence(lost)
    assert message is not None and message.startswith(
        "another process of the job has ended (connection closed)"
    )
    assert sentence(RuntimeError("ProcessGroupGloo: tensors differ")) is None


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {
        re.split(r">=|\[|-skinny", requirement)[0].replace("-", "_"): extra
        for extra, requirements in project["optional-dependencies"].items()
        for requirement in requirements
        if extra != "dev"
    } == EXTRAS


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    """`xvlm ... | head -1` writes nothing to standard error and exits with code 141."""
    lines = "print('line\\n' * 10**6)"
    text = f"from xvlm.cli.common.failures import exit_code; raise SystemExit(exit_code(lambda: {lines}))"
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (141, "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 中文 😀", "plain äöü 中文 😀"),
        ("\x1b]0;evil\x07", "\\x1b]0;evil\\x07"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_untrusted_text_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
