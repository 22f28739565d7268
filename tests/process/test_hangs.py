"""A rank that hangs ends the whole job, which names the rank; slow evaluations and checkpoints do not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.process import faults
from tests.process.ended import LONGEST_SECONDS, with_mark
from tests.process.forked import Ended

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
)

COMPUTING, READING = r"computing step \d+", r"reading the data of step \d+"
EXPECTED = {
    # The evaluation and the checkpoint before it take longer than the timeout.
    "asleep:1:8": (1, "has made no progress for", "computing step 8"),
    "busy:1:15": (1, "has made no progress for", READING),
    "busy:0:15": (1, "has made no progress for", READING),
    "stopped:1:8": (1, "has not responded for", f"last ({COMPUTING}|{READING})"),
    "stopped_main:1:8": (0, "has not responded for", f"last ({COMPUTING}|{READING})"),
    "stopped_evaluating:1:8": (1, "has not responded for", "last evaluating after step 8"),
}
"""Fault, workers and step -> the rank that hangs, what is said of it, and what it was doing."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, "-m", "tests.process.forked", str(tmp_path_factory.mktemp("hangs")), *EXPECTED],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "XVLM_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    end = time.monotonic() + 5  # a data worker looks twice a second whether its rank is alive
    while with_mark(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert with_mark(mark) == {}, "processes that nobody ended"
    return {case: Ended(**values) for case, values in json.loads(done.stdout).items()}


@pytest.mark.parametrize("case", EXPECTED)
def test_the_job_ends_and_names_the_rank(case: str, ended: dict[str, Ended]) -> None:
    rank, said, activity = EXPECTED[case]
    result = ended[case]
    lines = [line for errors in result.errors for line in errors.splitlines() if "the run ends" in line]
    wanted = rf"xvlm: rank {rank} {said} \d+ s, {activity} \(process \d+ on \S+\); the run ends "
    assert len(lines) == 1 and re.fullmatch(rf"{wanted}\(--collective-timeout\)", lines[0]), result.errors
    codes = [2, 2]
    if "stopped" in case:
        codes[rank] = -9
    assert result.codes == codes
    assert faults.TIMEOUT < result.seconds < LONGEST_SECONDS
