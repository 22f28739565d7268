"""A training process of a toy task with one fault, which the tests of this folder start.

python -m tests.process.faults FAULT WORKERS OUT [STEP]
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xvlm import distributed
from xvlm.cli.common.failures import exit_code
from xvlm.common.errors import InputError
from xvlm.config import OptimConfig, Run
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream
from xvlm.records import BadRecord, Record
from xvlm.training import checkpoint
from xvlm.training.loop import fit
from xvlm.training.watchdog import watch_ranks

STEPS = 400
TIMEOUT = 2.0
"""Seconds of `collective_timeout` for the faults that the watchdog finds."""
HANGS = ("busy", "asleep", "stopped", "stopped_main", "stopped_evaluating")


def mark_fault(out: Path) -> None:
    """Record that the fault has happened: from now on the process should end."""
    (out / "happened").touch()


@dataclass
class Numbers:
    """A source of 1000 records, each with its index."""

    name: str = "numbers"
    shards: list[int] = field(default_factory=lambda: [1000])

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int, /) -> Record:
        return Record(f"{self.name}/{index}", b"", (), {"index": index})


ERRORS: dict[str, Exception] = {
    "build_sample": KeyError("caption"),
    "expected": InputError("the vocabulary is empty"),
    "denied": PermissionError(errno.EACCES, "Permission denied", "/somewhere/shard.tar"),
    "memory": MemoryError("Unable to allocate 9 TiB"),
    "bad": BadRecord("image file missing", "photo.jpg"),
}


@dataclass
class FaultyBuilder:
    """A sample builder whose fault happens from the step-th sample of a process on, if it is active there."""

    fault: str
    step: int
    active: bool
    out: Path
    count: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Any:
        self.count += 1
        if self.active and self.count >= self.step:
            self.fail()
        return float(rng.random())

    def fail(self) -> None:
        mark_fault(self.out)
        if self.fault in ERRORS:
            raise ERRORS[self.fault]
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "exit":
            os._exit(3)
        if self.fault == "unpicklable":
            self.fault = "sent"
        if self.fault == "busy":
            time.sleep(600)


@dataclass
class Batch:
    x: Tensor
    more: Any = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return Batch(self.x.to(device), self.more)


@dataclass
class Collate:
    fault: str
    builder: FaultyBuilder

    def __call__(self, samples: dict[str, list[Any]]) -> Batch:
        builder = self.builder
        if self.fault == "collate" and builder.active and builder.count >= builder.step:
            mark_fault(builder.out)
            raise TypeError("cannot stack")
        unpicklable = (lambda: 0) if builder.fault == "sent" else None
        return Batch(torch.tensor(samples["numbers"])[:, None], unpicklable)


class Task(nn.Module):
    """Trains one weight.  A step takes 50 ms, so that there is time to send signals."""

    def __init__(self, fault: str, step: int, active: bool, out: Path) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.fault, self.remaining, self.active, self.out = fault, step, active, out

    def loss_weights(self) -> dict[str, float]:
        return {"loss": 1.0}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.remaining -= 1
        (self.out / "running").touch()
        if self.fault == "main" and self.active and self.remaining == 0:
            mark_fault(self.out)
            raise ZeroDivisionError("in the main process")
        if self.fault == "rank_killed" and self.active and self.remaining == 0:
            mark_fault(self.out)
            os.kill(os.getpid(), signal.SIGKILL)
        hangs_here = self.fault in ("asleep", "stopped", "stopped_main")
        if hangs_here and self.active and self.remaining == 0:
            mark_fault(self.out)
            if self.fault == "asleep":
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.05)
        return {"loss": (self.model(batch.x) - 1).square().mean()}


def train(fault: str, workers: int, out: Path, step: int) -> None:
    distributed.init()
    torch.set_num_threads(1)
    active = distributed.rank() == (0 if fault == "stopped_main" else distributed.world_size() - 1)
    builder = FaultyBuilder(fault, step, active, out)
    streams = [DataStream("numbers", [Numbers()], 2, builder)]
    ranks = distributed.rank(), distributed.world_size()
    steps = StepDataset(streams, Collate(fault, builder), 0, *ranks)

    task = Task(fault, step, active, out)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        if fault == "evaluation" and active:
            mark_fault(out)
            raise LookupError("nothing to measure")
        if fault == "stopped_evaluating" and active:
            time.sleep(TIMEOUT / 4)  # so that the rank reports what it does
            mark_fault(out)
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "asleep" and active:  # which takes longer than steps may, and is no fault
            time.sleep(2 * TIMEOUT)
        return {}

    if fault == "full":

        def save(*_: Any) -> None:
            mark_fault(out)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "state.json"))

        checkpoint.save = save
    if fault == "asleep":  # so that evaluation and saving come before the fault
        step, save = step // 2, checkpoint.save

        def save_slowly(*content: Any) -> Path:
            time.sleep(2 * TIMEOUT)
            return save(*content)

        checkpoint.save = save_slowly
    run = Run(workers=workers, save_every=step, eval_every=step, optim=OptimConfig(steps=STEPS))
    with watch_ranks(TIMEOUT if fault in HANGS else run.collective_timeout):
        fit(task, steps, run, out, evaluate=evaluate)


if __name__ == "__main__":
    fault, workers, out, *rest = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    sys.exit(exit_code(lambda: train(fault, int(workers), Path(out), int(*rest) if rest else 1)))
