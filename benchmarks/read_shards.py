"""How fast training reads photos: as files, from tar shards, and from shards on a local S3 server.

The loader alone is timed, with the transform of pre-training and without a model.  Rounds alternate, and the
S3 server runs on the same machine.  For example:

    python benchmarks/read_shards.py --photos photos/images --out runs/read
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
import tyro

from xvlm.bench.data import PixelSampleBuilder, collate
from xvlm.data.files.limits import temporary_limits
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream
from xvlm.data.loading.workers import WorkerStream
from xvlm.data.sources.open import open_source
from xvlm.prepare.prepare import prepare
from xvlm.prepare.settings import Settings

BUCKET = "shards"


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        photos: folder of JPEGs.
        out: folder for what is made.
        count: photos, each in the data once.
        per_shard: photos of a shard.
        size: side of the samples in pixels.
        batch: photos of a step.
        workers: processes that read.
        rounds: rounds of all, alternating.
    """

    photos: Path
    out: Path
    count: int = 6000
    per_shard: int = 100
    size: int = 224
    batch: int = 64
    workers: int = 2
    rounds: int = 3


def rate(study: Study, path: str) -> float:
    """Return the photos a second over one epoch, without those of the first steps."""
    source = open_source(path)
    stream = DataStream("pairs", [source], study.batch, PixelSampleBuilder(study.size))
    steps, warmup = len(source) // study.batch, 2 * study.workers
    with WorkerStream(StepDataset([stream], collate, seed=0), range(steps), study.workers) as batches:
        for _ in range(warmup):
            next(batches)
        start = time.perf_counter()
        for _ in batches:
            pass
        return (steps - warmup) * study.batch / (time.perf_counter() - start)


@contextmanager
def s3_server() -> Iterator[str]:
    """Start the server in a process of its own, and yield its URL."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as Server; "
        "server = Server(port=0, verbose=False); server.start(); "
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait()


def main(study: Study) -> None:
    """Print rates."""
    photos = sorted(study.photos.absolute().glob("*.jpg"))[: study.count]
    study.out.mkdir(parents=True, exist_ok=True)
    lines, shards = study.out / "photos.jsonl", study.out / "shards"
    records = [{"image": str(photo), "caption": ["a photo"]} for photo in photos]
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    form = {"room": "prepare.forms", "per_shard": study.per_shard}
    prepare("lines", str(lines), str(shards), settings=Settings(), **form)  # type: ignore[arg-type]
    with s3_server() as url:
        os.environ |= {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        fs = fsspec.filesystem("s3")
        fs.mkdir(BUCKET)
        for path in sorted(shards.glob("*.tar*")):
            fs.put_file(str(path), f"{BUCKET}/{path.name}")
        remote = f"s3://{BUCKET}/*.tar"
        rates: dict[str, list[float]] = {}
        for number in range(study.rounds):
            cache = study.out / f"cache{number}"
            rates.setdefault("files", []).append(rate(study, str(lines)))
            rates.setdefault("shards", []).append(rate(study, str(shards)))
            with temporary_limits(shard_cache=str(cache), shard_cache_gb=10.0):
                rates.setdefault("S3, copied ahead", []).append(rate(study, remote))
            shutil.rmtree(cache)
            if not number:
                rates["S3, by range"] = [rate(study, remote)]
            print({name: f"{values[-1]:.0f}/s" for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.0f} photos a second, {value / medians['files']:.2f} of files")


if __name__ == "__main__":
    main(tyro.cli(Study))
