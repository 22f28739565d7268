"""A failure of one rank ends the whole job that torchrun started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.process.ended import LONGEST_SECONDS, Case, Ended, run_all

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)

OTHER = "another process of the job has ended"
EXPECTED: dict[Case, list[str]] = {
    Case("expected", step=5, ranks=2): ["xvlm: rank 1: the vocabulary is empty", f"xvlm: rank 0: {OTHER}"],
    Case("main", ranks=2): ["ZeroDivisionError: in the main process", f"xvlm: rank 0: {OTHER}"],
}
"""Failure in rank 1 -> parts of the error output."""

MORE: dict[Case, list[str]] = {
    Case("build_sample", ranks=2): ["KeyError: 'caption'", "xvlm: rank 1: this is a fault of the program"],
    Case("build_sample", workers=2, step=5, ranks=2): ["KeyError: 'caption'"],
    Case("build_sample", workers=0, step=5, ranks=2): ["KeyError: 'caption'"],
    Case("killed", step=5, ranks=2): ["xvlm: rank 1: a data worker was ended by SIGKILL"],
    Case("evaluation", ranks=2): ["LookupError: nothing to measure"],
    Case("full", ranks=2): ["xvlm: rank 0: ", "no space is left on the disk"],
    Case("rank_killed", step=5, ranks=2): ["SIGKILL"],
    Case("asleep", step=8, ranks=2): ["xvlm: rank 1 has made no progress for 3 s, computing step 8 "],
}
if os.environ.get("XVLM_ALL_PROCESS_TESTS") == "1":
    EXPECTED = {**EXPECTED, **MORE}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Ended]:
    return run_all(list(EXPECTED), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_the_job_ends_with_an_error(case: Case, ended: dict[Case, Ended]) -> None:
    result = ended[case]
    assert result.code == 1, "the exit code of torchrun itself"
    assert result.seconds < LONGEST_SECONDS, result.errors
    assert all(part in result.errors for part in EXPECTED[case]), result.errors
    assert result.left == []
