"""How fast shards are made, beside the image library alone, and what memory that takes as the data grows.

The library alone decodes, resizes and encodes; `xvlm prepare` also reads, checks boxes and texts, hashes and
writes.  For example:

    python benchmarks/prepare.py --photos photos/images --out runs/prepare
"""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from xvlm.prepare.prepare import prepare
from xvlm.prepare.settings import Settings


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        photos: folder of JPEGs; each picture is made of six, so that it has the usual size of a photo.
        out: folder for lines and shards.
        resize: shorter side in pixels.
        count: photos of each round.
        rounds: rounds of both, alternating.
        growth: numbers of records, whose images are the photos again and again, for the memory.
        workers: number of processes.
    """

    photos: Path
    out: Path
    resize: int = 384
    count: int = 3000
    rounds: int = 3
    growth: tuple[int, ...] = (1000, 10_000, 100_000)
    workers: int = 2


def write_pictures(folder: Path, photos: Sequence[Path], count: int) -> list[Path]:
    """Write JPEGs of 672 x 448 pixels, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if not path.exists():
            picture = Image.new("RGB", (672, 448))
            for place in range(6):
                with Image.open(photos[(6 * number + place) % len(photos)]) as photo:
                    picture.paste(
                        photo.convert("RGB").resize((224, 224)), (224 * (place % 3), 224 * (place // 3))
                    )
            picture.save(path, quality=90)
        paths.append(path)
    return paths


def library(paths: Sequence[Path], resize: int) -> int:
    """Decode, resize and encode; return the number of bytes."""
    total = 0
    for path in paths:
        image = Image.open(path)
        scale = resize / min(image.size)
        size = tuple(round(side * min(1.0, scale)) for side in image.size)
        image.draft("RGB", size)
        data = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).save(
            data, "JPEG", quality=90
        )
        total += len(data.getvalue())
    return total


def write_lines(path: Path, photos: Sequence[Path], count: int) -> None:
    """Write records with a caption and two regions each."""
    elems = [{"caption": f"thing {n}", "bb": [10 * n, 20, 90, 80]} for n in (1, 2)]
    with path.open("w") as file:
        for photo in islice(cycle(photos), count):
            file.write(json.dumps({"image": str(photo), "caption": ["a photo"], "elems": elems}) + "\n")


def run(study: Study, lines: Path, out: Path, resize: int | None) -> None:
    """Prepare the lines."""
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(resize)
    prepare(
        "lines",
        str(lines),
        str(out),
        settings=settings,
        workers=study.workers,
        per_shard=500,
        room="prepare.forms",
    )


def main(study: Study) -> None:
    """Print rates and memory."""
    photos = sorted(study.photos.absolute().glob("*.jpg"))
    study.out.mkdir(parents=True, exist_ok=True)
    some = write_pictures(study.out.absolute() / "pictures", photos, study.count)
    write_lines(study.out / "some.jsonl", some, len(some))
    ratios = []
    parts = [some[number :: study.workers] for number in range(study.workers)]
    with multiprocessing.get_context("spawn").Pool(study.workers) as pool:
        pool.map(partial(library, resize=study.resize), [part[:50] for part in parts])
        for _ in range(study.rounds):
            begin = time.perf_counter()
            pool.map(partial(library, resize=study.resize), parts)
            alone = time.perf_counter()
            run(study, study.out / "some.jsonl", study.out / "shards", study.resize)
            end = time.perf_counter()
            rates = len(some) / (alone - begin), len(some) / (end - alone)
            ratios.append(rates[1] / rates[0])
            print(
                f"library alone {rates[0]:.0f}/s, xvlm prepare {rates[1]:.0f}/s: {ratios[-1]:.2f}", flush=True
            )
    print(f"median {np.median(ratios):.2f}, on {study.workers} processes, resized to {study.resize}")
    for count in study.growth:
        write_lines(study.out / "many.jsonl", photos, count)
        begin = time.perf_counter()
        run(study, study.out / "many.jsonl", study.out / "many", None)
        seconds = time.perf_counter() - begin
        own, workers = (
            resource.getrusage(who).ru_maxrss / 1000
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        size = sum(path.stat().st_size for path in (study.out / "many").rglob("*.tar")) / 1e9
        rate = f"{seconds:.1f} s, {count / seconds:.0f}/s"
        memory = f"memory {own:.0f} MB, of a worker {workers:.0f} MB"
        print(f"{count:,} images, {size:.2f} GB: {rate}, {memory}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Study))
