"""A training process of a toy task in which one thing goes wrong; started by the tests beside it.

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

from xvlm import dist
from xvlm.data.loader import Feed, Part
from xvlm.errors import InputError
from xvlm.failures import exit_code
from xvlm.records import BadRecord, Record
from xvlm.run import OptimConfig, Run
from xvlm.train import checkpoint
from xvlm.train.loop import fit

STEPS = 400


def happened(out: Path) -> None:
    """From now on the process should end."""
    (out / "happened").touch()


@dataclass
class Numbers:
    """Records that hold their own number."""

    name: str = "numbers"
    shards: list[int] = field(default_factory=lambda: [1000])

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int, /) -> Record:
        return Record(f"{self.name}/{index}", b"", (), {"index": index})


@dataclass
class View:
    """Something goes wrong at the step-th sample that a process reads, of the rank that it is meant for."""

    fault: str
    step: int
    here: bool
    out: Path
    seen: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Any:
        self.seen += 1
        if self.here and self.seen >= self.step:
            self.fail()
        return float(rng.random())

    def fail(self) -> None:
        happened(self.out)
        if self.fault == "view":
            raise KeyError("caption")
        if self.fault == "expected":
            raise InputError("the vocabulary is empty")
        if self.fault == "denied":
            raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/shard.tar")
        if self.fault == "memory":
            raise MemoryError("Unable to allocate 9 TiB")
        if self.fault == "bad":
            raise BadRecord("image file missing", "photo.jpg")
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
    view: View

    def __call__(self, samples: dict[str, list[Any]]) -> Batch:
        if self.fault == "collate" and self.view.here and self.view.seen >= self.view.step:
            happened(self.view.out)
            raise TypeError("cannot stack")
        unpicklable = (lambda: 0) if self.view.fault == "sent" else None
        return Batch(torch.tensor(samples["numbers"])[:, None], unpicklable)


class Task(nn.Module):
    """One weight.  A step takes 50 ms, so that there is time to send signals."""

    def __init__(self, fault: str, step: int, here: bool, out: Path) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.fault, self.left, self.here, self.out = fault, step, here, out

    def loss_weights(self) -> dict[str, float]:
        return {"loss": 1.0}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.left -= 1
        (self.out / "running").touch()
        if self.fault == "main" and self.here and self.left == 0:
            happened(self.out)
            raise ZeroDivisionError("in the main process")
        if self.fault == "rank_killed" and self.here and self.left == 0:
            happened(self.out)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return {"loss": (self.model(batch.x) - 1).square().mean()}


def train(fault: str, workers: int, out: Path, step: int) -> None:
    dist.init()
    torch.set_num_threads(1)
    here = dist.rank() == dist.world() - 1
    view = View(fault, step, here, out)
    feed = Feed([Part("numbers", [Numbers()], 2, view)], Collate(fault, view), 0, dist.rank(), dist.world())

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        if fault == "evaluation" and here:
            happened(out)
            raise LookupError("nothing to measure")
        return {}

    if fault == "full":

        def save(*_: Any) -> None:
            happened(out)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "state.json"))

        checkpoint.save = save
    run = Run(workers=workers, save_every=step, eval_every=step, optim=OptimConfig(steps=STEPS))
    fit(Task(fault, step, here, out), feed, run, out, evaluate=evaluate)


if __name__ == "__main__":
    fault, workers, out, *rest = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    sys.exit(exit_code(lambda: train(fault, int(workers), Path(out), int(*rest) if rest else 1)))
