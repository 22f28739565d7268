"""After any fault in training or in its data workers, the process ends within seconds and names the cause."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from tests.process.ended import LONGEST_SECONDS, Case, Ended, run_all, with_mark

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)

REPORT = "this is a fault of the program"
EXPECTED: dict[Case, tuple[int, list[str]]] = {
    Case("build_sample", step=5): (
        1,
        ["KeyError: 'caption'", "In a data worker:", "record 'numbers/", REPORT],
    ),
    Case("collate", workers=2, step=5): (1, ["collate failed on", "TypeError: cannot stack", REPORT]),
    Case("main", workers=2): (1, ["ZeroDivisionError: in the main process", REPORT]),
    Case("evaluation"): (1, ["LookupError: nothing to measure", REPORT]),
    Case("killed", workers=2, step=5): (2, ["xvlm: a data worker was ended by SIGKILL", "--workers"]),
    Case("full"): (2, ["state.json cannot be written: no space is left on the disk"]),
    Case("unpicklable"): (2, ["a data worker ended by itself with exit code 1", "pickle"]),
    Case("expected"): (2, ["xvlm: the vocabulary is empty"]),
    Case("none", workers=2, signals=(SIGKILL,), to_all=False): (-SIGKILL, []),
    Case("busy", step=9, signals=(SIGINT, SIGINT)): (130, ["xvlm: interrupted"]),
}
"""Fault -> (exit code, parts of the error output)."""

MORE: dict[Case, tuple[int, list[str]]] = {
    **{
        replace(case, workers=workers, step=step): expected
        for case, expected in EXPECTED.items()
        if not case.signals and case.fault not in ("killed", "unpicklable")
        for workers in (0, 1, 2)
        for step in (1, 5)
        if (case.fault, workers) != ("build_sample", 0)
    },
    Case("build_sample", workers=0): (1, ["KeyError: 'caption'", REPORT]),
    Case("killed"): (2, ["xvlm: a data worker was ended by SIGKILL"]),
    Case("exit"): (2, ["a data worker ended by itself with exit code 3"]),
    Case("memory"): (2, ["memory ran out (Unable to allocate 9 TiB)"]),
    Case("denied", workers=2): (2, ["xvlm: /somewhere/shard.tar may not be read or written"]),
    Case("bad"): (2, ["20 x image file missing (first: photo.jpg"]),
    Case("none", signals=(SIGTERM,)): (130, ["stopped after step"]),
    Case("none", workers=2, signals=(SIGINT,)): (130, ["stopped after step"]),
    Case("none", workers=0, signals=(SIGTERM,)): (130, ["stopped after step"]),
    Case("none", signals=(SIGKILL,), to_all=False): (-SIGKILL, []),
    Case("busy", workers=2, step=9, signals=(SIGTERM, SIGTERM), to_all=False): (130, ["interrupted"]),
}
if os.environ.get("XVLM_ALL_PROCESS_TESTS") == "1":
    EXPECTED = {**EXPECTED, **MORE}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Ended]:
    return run_all(list(EXPECTED), tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_the_process_ends_and_names_the_cause(case: Case, ended: dict[Case, Ended]) -> None:
    code, parts = EXPECTED[case]
    result = ended[case]
    assert result.seconds < LONGEST_SECONDS, result.errors
    assert result.code == code, result.errors
    assert all(part in result.errors for part in parts), result.errors
    assert result.left == []
    if code in (2, 130) and case.fault != "unpicklable":
        lines = [line for line in result.errors.splitlines() if not line.startswith("  ")]
        (line,) = [line for line in lines if "Warning" not in line]
        assert line.startswith(("xvlm: ", "stopped after step")), result.errors


def test_remaining_processes_are_found() -> None:
    """The check above works: it finds a child that is running, and not one that was killed."""
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "XVLM_TEST_MARK": "self-test"})
    try:
        while not with_mark("self-test"):
            time.sleep(0.01)
        assert with_mark("self-test") == {child.pid: "sleep 60 "}
    finally:
        child.kill()
        child.wait()
    assert with_mark("self-test") == {}
