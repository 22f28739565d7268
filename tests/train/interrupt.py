"""Start `xvlm train` as a process of its own, wait for a step, and send it a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xvlm.run import write_json
from xvlm.train import checkpoint

CLOCKS = ("seconds", "images_per_s", "data_share")


def rows(out: Path) -> list[dict[str, Any]]:
    """Steps of a log without what a clock says; a line that is still being written is left out."""
    if not (out / "log.jsonl").exists():
        return []
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in found if "event" not in row]


def train_and_signal(
    run: Any, out: Path, number: signal.Signals, when: Callable[[Path], bool]
) -> tuple[int, str]:
    """Signal the process and its workers, as a terminal does, once `when(out)`.

    Returns:
        (exit code, what it said on standard error).
    """
    write_json(out.parent / "asked.json", run)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "xvlm",
            "train",
            "--from",
            str(out.parent / "asked.json"),
            "--out",
            str(out),
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    while not when(out):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"training ended before it was to be stopped: {process.communicate()[1]}")
        time.sleep(0.005)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=200)
    return process.returncode, said


def saved(step: int) -> Callable[[Path], bool]:
    """Whether a checkpoint of `step` or later stands."""

    def reached(out: Path) -> bool:
        newest = checkpoint.newest(out)
        return newest is not None and int(newest.name.removeprefix("step_")) >= step

    return reached


def under_way(out: Path) -> bool:
    """Whether training has begun: TensorBoard's file is opened some milliseconds before the first step."""
    if not any((out / "tensorboard").glob("*")):
        return False
    time.sleep(0.5)
    return True
