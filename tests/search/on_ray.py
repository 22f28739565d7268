"""Index photos on a local Ray of two workers: `on_ray.py FOLDER [kill]`; `kill` kills a worker meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray

from xvlm.search import ray_engine
from xvlm.search.index import Index


def main(folder: Path, kill: bool) -> None:
    ray_engine.BLOCK_PHOTOS = 4
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    index = Index.create(folder / "ray", folder / "model", levels=(2,))
    killed: list[int] = []
    if kill:
        threading.Thread(target=kill_a_worker, args=(killed,), daemon=True).start()
    done = index.update([str(folder / "photos")], engine="ray", workers=2)
    print(f"killed {len(killed)}")
    print(done.summary(), flush=True)
    ray.shutdown()


def kill_a_worker(killed: list[int]) -> None:
    """Kill the first worker that has begun to encode."""
    while not killed:
        for entry in Path("/proc").iterdir():
            try:
                name = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::") and b"Encoder" in name and os.getppid() != int(entry.name):
                time.sleep(0.5)
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
                return
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["kill"])
