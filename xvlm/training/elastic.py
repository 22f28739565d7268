"""Restarts by torchrun: a run that it began in a folder goes on there by itself, and no other run does.

`torchrun --max-restarts` starts all ranks again when one has died.  The folder records the launchers (the
torchrun of each machine) of the run that began in it: a process whose launcher is among them is a restart.
The environment's number of restarts does not tell: it is 0 where only another machine's rank died, and it is
above 0 for a job that was refused a folder that holds another run.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json, write_json

LAUNCHERS = "torchrun.json"
"""File in a run's folder."""


def launchers() -> list[str]:
    """Return host, process and start time of the torchrun of each machine; none without torchrun."""
    return sorted({one for one in distributed.gather_objects(_own_launcher()) if one})


def _own_launcher() -> str:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    try:  # the second word is a name in parentheses, which may hold anything
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = ""
    return f"{socket.gethostname()} {parent} {started}".rstrip()


def is_restart(out: Path, launchers: list[str]) -> bool:
    """Return whether one of these launchers began the run in the folder `out`, or continued it."""
    try:
        recorded = read_json(out / LAUNCHERS, list)
    except (InputError, OSError):
        return False
    return any(one in recorded for one in launchers)


def record_launchers(out: Path, launchers: list[str]) -> None:
    """Record who started the run in its folder, once it may begin or continue there."""
    if launchers:
        write_json(out / LAUNCHERS, launchers)
