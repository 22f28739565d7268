"""Kills ranks of a job of `torchrun --max-restarts`, which has to continue by itself with the same losses.

`python -m tests.training.restarts 10 0 2` kills 10 times, with seed 0, on 2 "nodes": two torchruns with one
rank each.  By default there is one torchrun with two ranks.  `... 10 0 1 0` shards the model over all ranks,
so that checkpoints are written while training goes on.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.process.ended import with_mark
from tests.tiny import tiny_run
from tests.training.interrupt import rows
from tests.training.kills import children
from xvlm.common.json_file import write_json
from xvlm.tasks.pretrain import PretrainRun

RANKS = 2
SECONDS = 300.0


def small_run(steps: int, shard_degree: int = 1) -> PretrainRun:
    """Return a run with data workers that saves every third step."""
    return tiny_run("convnext", steps=steps, save_every=3, workers=1, shard_degree=shard_degree)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


@dataclass
class Job:
    """Processes of torchrun that train one run together, in `folder/out`."""

    folder: Path
    torchruns: list[subprocess.Popen[bytes]]
    mark: str

    @classmethod
    def start(cls, run: Any, folder: Path, nodes: int = 1, restarts: int = 0) -> Job:
        """Start a torchrun on each "node"; their outputs are in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "wanted.json", run)
        rendezvous = ["--standalone"]
        if nodes > 1:
            rendezvous = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-id={uuid.uuid4().hex}"]
            rendezvous += [f"--rdzv-endpoint=localhost:{free_port()}"]
        words = ["-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={RANKS // nodes}"]
        words += [f"--max-restarts={restarts}", "-m", "xvlm", "train", "--from", f"{folder}/wanted.json"]
        processes, mark = [], uuid.uuid4().hex
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "XVLM_TEST_MARK": mark,
        }
        for node in range(nodes):
            with (folder / f"node{node}.txt").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *words, "--out", str(folder / "out")],
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return cls(folder, processes, mark)

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return self.folder / "out"

    @property
    def output(self) -> str:
        """What all processes printed so far."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("node*.txt")))

    def ranks(self) -> list[int]:
        """Return the processes of the ranks that are alive."""
        return [pid for torchrun in self.torchruns for pid in children(torchrun.pid)]

    def kill_at(self, step: int, rng: random.Random) -> str:
        """Kill a rank, or one of its data workers, soon after it has logged a step.  Return a description."""
        end = time.monotonic() + SECONDS
        while max((row["step"] for row in rows(self.out)), default=0) < step or len(self.ranks()) < RANKS:
            if any(torchrun.poll() is not None for torchrun in self.torchruns) or time.monotonic() > end:
                self.close()
                raise AssertionError(f"the job ended before step {step}: {self.output}")
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        ranks = self.ranks()
        rank = rng.randrange(len(ranks))
        workers = children(ranks[rank]) if rng.random() < 0.25 else []
        os.kill(workers[0] if workers else ranks[rank], signal.SIGKILL)
        return f"{'a data worker of ' * bool(workers)}rank {rank} killed after step {step}"

    def wait(self) -> None:
        """Wait for the end.  Raises AssertionError if a torchrun fails or hangs."""
        try:
            codes = [torchrun.wait(SECONDS) for torchrun in self.torchruns]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the job hangs: {self.output}") from None
        finally:
            self.close()
        assert not any(codes), self.output
        end = time.monotonic() + 5  # a data worker looks twice a second whether its rank is alive
        while with_mark(self.mark) and time.monotonic() < end:
            time.sleep(0.1)
        assert with_mark(self.mark) == {}, "processes that nobody ended"

    def close(self) -> None:
        """Kill what is left of the job."""
        for torchrun in self.torchruns:
            if torchrun.poll() is None:
                for pid in children(torchrun.pid):
                    os.kill(pid, signal.SIGKILL)
                torchrun.kill()
                torchrun.wait()


def assert_same(job: Job, reference: Job, steps: int) -> None:
    """Compare every number of every step, and the final model, bit for bit."""
    assert [row["step"] for row in rows(job.out)] == list(range(1, steps + 1))
    assert rows(job.out) == rows(reference.out)
    one, two = (load_file(each.out / "model" / "model.safetensors") for each in (job, reference))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def main(kills: int, seed: int = 0, nodes: int = 1, shard_degree: int = 1) -> None:
    """Kill at `kills` random steps."""
    rng, steps = random.Random(seed), 6 * kills
    with tempfile.TemporaryDirectory() as name:
        run = small_run(steps, shard_degree)
        reference = Job.start(run, Path(name) / "reference")
        reference.wait()
        job = Job.start(run, Path(name) / "job", nodes, restarts=kills)
        start = time.monotonic()
        for step in sorted(rng.sample(range(1, steps), kills)):
            print(job.kill_at(step, rng), flush=True)
        job.wait()
        assert_same(job, reference, steps)
        restarts = job.output.count("torchrun started the run again")
    seconds = time.monotonic() - start
    print(f"{kills} kills, {restarts} restarts, {nodes} node(s), {seconds:.0f} s: the same run")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
