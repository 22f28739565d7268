"""What goes wrong in one rank ends the whole job that torchrun started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.process.ended import LONGEST_SECONDS, Case, Ended, run_all

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)

OTHER = "another process of the job has ended"
EXPECTED: dict[Case, list[str]] = {
    Case("expected", step=5, ranks=2): ["xvlm: rank 1: the vocabulary is empty", f"xvlm: rank 0: {OTHER}"],
    Case("main", ranks=2): ["ZeroDivisionError: in the main process", f"xvlm: rank 0: {OTHER}"],
}
"""What goes wrong, in rank 1 -> what is said."""

MORE: dict[Case, list[str]] = {
    Case("view", ranks=2): ["KeyError: 'caption'", "xvlm: rank 1: this is a fault of the program"],
    Case("view", workers=2, step=5, ranks=2): ["KeyError: 'caption'"],
    Case("view", workers=0, step=5, ranks=2): ["KeyError: 'caption'"],
    Case("killed", step=5, ranks=2): ["xvlm: rank 1: a data worker was ended by SIGKILL"],
    Case("evaluation", ranks=2): ["LookupError: nothing to measure"],
    Case("full", ranks=2): ["xvlm: rank 0: ", "no space is left on the disk"],
    Case("rank_killed", step=5, ranks=2): ["SIGKILL"],
}
if os.environ.get("XVLM_ALL_PROCESS_TESTS") == "1":
    EXPECTED = {**EXPECTED, **MORE}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Ended]:
    return run_all(list(EXPECTED), tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_the_job_ends_and_says_why(case: Case, ended: dict[Case, Ended]) -> None:
    found = ended[case]
    assert found.code == 1, "of torchrun itself"
    assert found.seconds < LONGEST_SECONDS, found.errors
    assert all(part in found.errors for part in EXPECTED[case]), found.errors
    assert found.left == []
