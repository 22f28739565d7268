"""Ranks of `faults.py`, forked from one process that has imported everything, which takes seconds otherwise.

python -m tests.process.forked OUT FAULT:WORKERS:STEP ...   prints how the two ranks of each case ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from tests.process.faults import train
from xvlm.cli.common.failures import exit_code

RANKS = 2
SECONDS = 40.0


@dataclass
class Ended:
    """How the ranks of a case ended.

    Attributes:
        codes: exit codes; that of a rank which had to be killed is -9, as with torchrun.
        errors: standard error of each.
        seconds: since the fault, until the first rank ended.
    """

    codes: list[int]
    errors: list[str]
    seconds: float


def fork_rank(rank: int, port: int, fault: str, workers: int, step: int, out: Path) -> int:
    """Start a rank as torchrun does, and return its process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        errors = os.open(out / f"errors{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # this process holds the store
        code = exit_code(lambda: train(fault, workers, out, step))
    finally:
        os._exit(code)


def wait_for_all(ranks: dict[int, tuple[str, int]], out: Path) -> dict[str, Ended]:
    """Wait for the ranks of all cases; when one has ended, the other soon has to, or is killed."""
    ended: dict[str, Ended] = {case: Ended([0] * RANKS, [], float("inf")) for case, _ in ranks.values()}
    deadlines = dict.fromkeys(ranks, time.monotonic() + SECONDS)
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            case, rank = ranks.pop(pid)
            ended[case].codes[rank] = os.waitstatus_to_exitcode(status)
            fault = out / case / "happened"
            if fault.exists():
                ended[case].seconds = min(ended[case].seconds, time.time() - fault.stat().st_mtime)
            for other in ranks:
                if ranks[other][0] == case:
                    deadlines[other] = time.monotonic() + 3
        for other in ranks:
            if time.monotonic() > deadlines[other]:
                os.kill(other, signal.SIGKILL)
        time.sleep(0.02)
    for case, result in ended.items():
        result.errors = [(out / case / f"errors{rank}.txt").read_text() for rank in range(RANKS)]
    return ended


def main(out: Path, cases: list[str]) -> None:
    """Run all cases at once."""
    servers, ranks = [], {}
    for case in cases:
        fault, workers, step = case.split(":")
        (out / case).mkdir(parents=True)
        servers.append(socket.create_server(("localhost", 0)))
        port = servers[-1].getsockname()[1]
        for rank in range(RANKS):
            pid = fork_rank(rank, port, fault, int(workers), int(step), out / case)
            ranks[pid] = case, rank
    # Stores start threads, and a process with threads cannot be forked safely.
    stores = [
        dist.TCPStore(
            "localhost",
            server.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=server.detach(),
        )
        for server in servers
    ]
    print(json.dumps({case: asdict(ended) for case, ended in wait_for_all(ranks, out).items()}))
    del stores


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
