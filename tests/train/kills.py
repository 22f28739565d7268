"""Kill training at random moments, and see that it goes on bit for bit: `python -m tests.train.kills 100`.

What is killed is the trainer, one of its workers, or one rank of two, while checkpoints, best models and the
model are written; now and then the newest checkpoint is damaged, too.
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

from tests.tiny import TEXT, tiny_run
from tests.train.interrupt import rows
from xvlm.lock import LOCK
from xvlm.run import OptimConfig, write_json
from xvlm.tasks._dev import DevConfig
from xvlm.tasks.pretrain import PretrainRun
from xvlm.train import checkpoint

STEPS = 8
SECONDS = 300.0


def demanding_run() -> PretrainRun:
    """Dropout, augmentation, a running average; saved at every step, measured at every second one."""
    run = tiny_run("convnext", steps=STEPS, save_every=1, eval_every=2, workers=1, keep_best="t2i_r1")
    return replace(
        run,
        model=replace(run.model, text=replace(TEXT, dropout=0.1)),
        optim=OptimConfig(steps=STEPS, lr=3e-3, warmup=2, ema=0.9),
        dev=DevConfig(retrieval="scenes:test:3?image_size=64"),
    )


def start(out: Path, ranks: int) -> subprocess.Popen[bytes]:
    """A process that trains, or goes on with, `out`, and leads a group of its own."""
    asked = out.parent / "asked.json"
    write_json(asked, demanding_run())
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, "-m", *launch, "xvlm", "train", "--from", str(asked), "--out", str(out), "--resume"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=(out.parent / "stderr.txt").open("wb"),
        start_new_session=True,
    )


def wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; one that hangs is an error."""
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def kill_one(out: Path, ranks: int, draw: random.Random) -> str:
    """Start, wait for a step and a moment, kill; returns what was killed."""
    process = start(out, ranks)
    done = max((row["step"] for row in rows(out)), default=0)
    goal = draw.randint(done, STEPS)
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        if max((row["step"] for row in rows(out)), default=0) >= goal and (out / LOCK).exists():
            break
        time.sleep(0.002)
    time.sleep(draw.random() * 0.3)
    what = draw.choice(["trainer", "trainer", "child"])
    targets = children(process.pid) if what == "child" else []
    if targets:  # a worker, or a rank of two
        os.kill(draw.choice(targets), signal.SIGKILL)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            what = "child, then all"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return f"{what} of {ranks} after step {goal}"


def damage_newest(out: Path, draw: random.Random) -> str:
    """Flip a bit of the newest checkpoint, or cut a file of it, if there is an older one."""
    found = sorted((out / "checkpoints").glob("step_????????"))
    if len(found) < 2 or draw.random() < 0.5:
        return ""
    path = draw.choice(sorted(found[-1].iterdir()))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data if draw.random() < 0.5 else data[: draw.randrange(len(data))])
    return f", {path.name} of {found[-1].name} damaged"


def same(out: Path, whole: Path) -> bool:
    """Bit for bit: every number of every step and measurement, the model, the best one."""
    equal = rows(out) == rows(whole) and [row["step"] for row in rows(out)] == list(range(1, STEPS + 1))
    for name in ("model", "best"):
        one, two = (load_file(folder / name / "model.safetensors") for folder in (out, whole))
        equal &= one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    best = [(folder / "best" / "measured.json").read_text() for folder in (out, whole)]
    return equal and best[0] == best[1] and not list(out.rglob("*.partial"))


def kill_and_compare(folder: Path, whole: Path, ranks: int, kills: int, seed: int) -> None:
    """A run that is killed so many times ends as one that was not.  Raises AssertionError."""
    draw = random.Random(seed)
    out = folder / "out"
    folder.mkdir(parents=True)
    for _ in range(kills):
        told = kill_one(out, ranks, draw) + damage_newest(out, draw)
        print(f"seed {seed}: {told}", flush=True)
        newest = checkpoint.newest(out)
        if newest and int(newest.name.removeprefix("step_")) == STEPS:
            break
    code = wait(start(out, ranks))
    assert code == 0, (folder / "stderr.txt").read_text()
    assert same(out, whole), f"seed {seed}: another run than {whole}"


def main(total: int, seed: int = 0) -> None:
    """So many kills, over as many runs as that takes."""
    with tempfile.TemporaryDirectory() as name:
        whole = {ranks: Path(name) / f"whole{ranks}" / "out" for ranks in (1, 2)}
        for ranks, out in whole.items():
            out.parent.mkdir()
            assert wait(start(out, ranks)) == 0, (out.parent / "stderr.txt").read_text()
        for number in range(seed, seed + -(-total // 4)):
            ranks = 1 + number % 2
            kill_and_compare(Path(name) / str(number), whole[ranks], ranks, 4, number)
    print(f"about {total} kills: all went on, bit for bit")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
