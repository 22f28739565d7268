"""A rank that hangs ends the whole job, which names the rank; slow evaluations and checkpoints do not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.process import faults
from tests.process.ended import LONGEST_SECONDS, Case, Ended, run_all

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)

EXPECTED: dict[Case, str] = {
    # The evaluation and the checkpoint before it take longer than the timeout.
    Case("asleep", step=8, ranks=2): r"rank 1 has made no progress for \d+ s, computing step 8 ",
    Case("busy", step=15, ranks=2): r"rank 1 has made no progress for \d+ s, reading the data of step \d+ ",
    Case(
        "stopped", step=8, ranks=2
    ): r"rank 1 has not responded for \d+ s, last (computing|reading the data of) step \d+ ",
    Case(
        "stopped_main", step=8, ranks=2
    ): r"rank 0 has not responded for \d+ s, last (computing|reading the data of) step \d+ ",
}
"""Fault in one rank -> beginning of the sentence."""

MORE: dict[Case, str] = {
    Case("stopped_evaluating", step=8, ranks=2): (
        r"rank 1 has not responded for \d+ s, last (saving|evaluating after) step 8 "
    ),
    Case("busy", workers=0, step=15, ranks=2): (
        r"rank 1 has made no progress for \d+ s, reading the data of step \d+ "
    ),
}
if os.environ.get("XVLM_ALL_PROCESS_TESTS") == "1":
    EXPECTED = {**EXPECTED, **MORE}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Ended]:
    return run_all(list(EXPECTED), tmp_path_factory.mktemp("hangs"))


@pytest.mark.parametrize("case", EXPECTED, ids=str)
def test_the_job_ends_and_names_the_rank(case: Case, ended: dict[Case, Ended]) -> None:
    result = ended[case]
    sentences = [line for line in result.errors.splitlines() if line.startswith("xvlm: ")]
    wanted = rf"xvlm: {EXPECTED[case]}\(process \d+ on \S+\); the run ends \(--collective-timeout\)"
    assert sentences and re.fullmatch(wanted, sentences[0]), result.errors
    assert result.code == 1, "the exit code of torchrun itself"
    assert faults.TIMEOUT < result.seconds < LONGEST_SECONDS
    assert "exitcode: 2" in result.errors or "exitcode  : 2" in result.errors, "of the rank that found it"
    assert result.left == []
