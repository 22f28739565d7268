"""Processes of `faults.py`, several at once, and how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 3
LONGEST_SECONDS = 20.0
"""From the fault to the end of the process."""


@dataclass(frozen=True)
class Case:
    """What goes wrong, and when.

    Attributes:
        fault: see `faults.py`.
        step: of the fault.
        signals: sent one after another to the process, or with `to_all` to its workers too, when it trains.
        ranks: processes that torchrun starts; 1: it is not used.
    """

    fault: str
    workers: int = 1
    step: int = 1
    signals: tuple[signal.Signals, ...] = ()
    to_all: bool = True
    ranks: int = 1

    def __str__(self) -> str:
        names = "-".join([self.fault, *(one.name for one in self.signals)])
        return f"{names}-workers{self.workers}-step{self.step}-ranks{self.ranks}"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        seconds: since the fault.
        left: command lines of processes that it left behind.
    """

    code: int
    seconds: float
    errors: str
    left: list[str]


def run_all(cases: Sequence[Case], folder: Path) -> dict[Case, Ended]:
    """Run cases, several at once; one that hangs is killed, and its time is infinite."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(cases, pool.map(lambda case: run(case, folder / str(case)), cases), strict=True))


def run(case: Case, out: Path) -> Ended:
    """Run one case."""
    mark = uuid.uuid4().hex
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.ranks)]
    words = [case.fault, str(case.workers), str(out), str(case.step)]
    process = subprocess.Popen(
        [sys.executable, *(launcher if case.ranks > 1 else []), "-m", "tests.process.faults", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "XVLM_TEST_MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        started = out / ("running" if case.signals else "happened")
        if case.fault == "busy":
            started = out / "happened"
        end = time.monotonic() + 120
        while not started.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        begun = time.monotonic()
        for number in case.signals:
            time.sleep(0.5)
            (os.killpg if case.to_all else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=LONGEST_SECONDS * 2)
        seconds = time.monotonic() - begun
    except subprocess.TimeoutExpired:
        seconds, errors = float("inf"), ""
    time.sleep(2)
    left = with_mark(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
        _, errors = process.communicate()
    return Ended(process.returncode, seconds, errors, list(left.values()))


def with_mark(mark: str) -> dict[int, str]:
    """Living processes that were started with this mark in their environment, and their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"XVLM_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes()
                and ") Z" not in (folder / "stat").read_text()
            ):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found
