"""Kills training at random moments, and compares the resumed run with an uninterrupted one bit for bit.

It kills the trainer, one of its workers, or one of two ranks, while checkpoints, the best model and the final
model are written, and sometimes damages the newest checkpoint: `python -m tests.training.kills 100`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.tiny import tiny_run
from tests.training.interrupt import rows, start_training
from xvlm.common.lock import LOCK
from xvlm.config import OptimConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training import checkpoint

STEPS = 8
SECONDS = 300.0


def demanding_run() -> PretrainRun:
    """Return a run with dropout, augmentation and a running average that saves and evaluates often."""
    run = tiny_run("convnext", steps=STEPS, save_every=1, eval_every=2, workers=1, best_metric="t2i_r1")
    return replace(
        run,
        model=replace(run.model, text=replace(run.model.text, dropout=0.1)),
        optim=OptimConfig(steps=STEPS, lr=3e-3, warmup_steps=2, ema_decay=0.9),
        validation=ZeroShotValidation(retrieval="scenes:test:3?image_size=64"),
    )


def start(out: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Start a process that begins or continues a run."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    errors = (out.parent / "stderr.txt").open("wb")
    return start_training(demanding_run(), out, "--resume", launch=launch, stderr=errors)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process; one that hangs is an error."""
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def kill_one(out: Path, ranks: int, rng: random.Random) -> str:
    """Start a run, wait for a random step and moment, and kill.  Return a description of the kill."""
    process = start(out, ranks)
    done = max((row["step"] for row in rows(out)), default=0)
    goal = rng.randint(done, STEPS)
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        if max((row["step"] for row in rows(out)), default=0) >= goal and (out / LOCK).exists():
            break
        time.sleep(0.002)
    time.sleep(rng.random() * 0.3)
    target = rng.choice(["trainer", "trainer", "child"])
    pids = children(process.pid) if target == "child" else []
    if pids:  # a worker, or one of two ranks
        os.kill(rng.choice(pids), signal.SIGKILL)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            target = "child, then all"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return f"{target} of {ranks} after step {goal}"


def damage_newest(out: Path, rng: random.Random) -> str:
    """Damage a file of the newest checkpoint, if there is an older one.  Return a description."""
    folders = sorted((out / "checkpoints").glob("step_????????"))
    if len(folders) < 2 or rng.random() < 0.5:
        return ""
    path = rng.choice(sorted(folders[-1].iterdir()))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data if rng.random() < 0.5 else data[: rng.randrange(len(data))])
    return f", {path.name} of {folders[-1].name} damaged"


def same(out: Path, reference: Path) -> bool:
    """Compare two runs bit for bit: every number of every step, the final model and the best one."""
    equal = rows(out) == rows(reference) and [row["step"] for row in rows(out)] == list(range(1, STEPS + 1))
    for name in ("model", "best"):
        one, two = (load_file(folder / name / "model.safetensors") for folder in (out, reference))
        equal &= one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    best = [(folder / "best" / "measured.json").read_text() for folder in (out, reference)]
    return equal and best[0] == best[1] and not list(out.rglob("*.partial"))


def kill_and_compare(folder: Path, reference: Path, ranks: int, kills: int, seed: int) -> None:
    """Kill a run several times, and compare it with an uninterrupted one.  Raises AssertionError."""
    rng = random.Random(seed)
    out = folder / "out"
    folder.mkdir(parents=True)
    for _ in range(kills):
        print(f"seed {seed}: {kill_one(out, ranks, rng)}{damage_newest(out, rng)}", flush=True)
        newest = checkpoint.newest(out)
        if newest and int(newest.name.removeprefix("step_")) == STEPS:
            break
    code = wait(start(out, ranks))
    assert code == 0, (folder / "stderr.txt").read_text()
    assert same(out, reference), f"seed {seed}: {out} differs from {reference}"


def main(total: int, seed: int = 0) -> None:
    """Kill `total` times, four times per run."""
    with tempfile.TemporaryDirectory() as name:
        references = {ranks: Path(name) / f"reference{ranks}" / "out" for ranks in (1, 2)}
        for ranks, out in references.items():
            out.parent.mkdir()
            assert wait(start(out, ranks)) == 0, (out.parent / "stderr.txt").read_text()
        for number in range(seed, seed + -(-total // 4)):
            ranks = 1 + number % 2
            kill_and_compare(Path(name) / str(number), references[ranks], ranks, 4, number)
    print(f"about {total} kills: all runs continued bit for bit")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
