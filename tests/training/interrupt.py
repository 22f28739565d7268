"""Starts `xvlm train` in another process, waits for a step, and sends it a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from xvlm.common.json_file import write_json
from xvlm.training import checkpoint

TIMES = ("seconds", "images_per_s", "data_share")


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the steps of a log without times.  A line that is still being written is left out."""
    if not (out / "log.jsonl").exists():
        return []
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    complete = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in complete if "event" not in row]


def start_training(
    run: Any, out: Path, *options: str, launch: Sequence[str] = (), stderr: Any = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start `xvlm train` as a process with its own process group; `launch` are the words of torchrun."""
    wanted = out.parent / "wanted.json"
    write_json(wanted, run)
    command = [sys.executable, "-m", *launch, "xvlm", "train", "--from", str(wanted), "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*command, *options], env=env, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
    )


def train_and_signal(
    run: Any, out: Path, number: signal.Signals, when: Callable[[Path], bool]
) -> tuple[int, str]:
    """Signal the process and its workers, as a terminal does, once `when(out)` is true.

    Returns:
        exit code and standard error.
    """
    process = start_training(run, out)
    end = time.monotonic() + 300
    while not when(out):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"training ended before it was to be stopped: {process.communicate()[1]!r}")
        time.sleep(0.005)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors.decode()


def saved(step: int) -> Callable[[Path], bool]:
    """Return a condition: there is a checkpoint of `step` or later."""

    def reached(out: Path) -> bool:
        newest = checkpoint.newest(out)
        return newest is not None and int(newest.name.removeprefix("step_")) >= step

    return reached


def under_way(out: Path) -> bool:
    """Return whether training has begun; TensorBoard's file is opened just before the first step."""
    if not any((out / "tensorboard").glob("*")):
        return False
    time.sleep(0.5)
    return True
