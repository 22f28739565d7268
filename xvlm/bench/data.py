"""The way from JPEG files to batches: each stage apart, the pairs transform, and worker processes.

The pictures are drawn here: 640 x 480, soft shapes with grain, files of the size of a photograph's.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xvlm.data.images import open_image
from xvlm.data.loader import Feed, Part, load
from xvlm.data.randaugment import ALL, rand_augment
from xvlm.data.sources import JsonSource
from xvlm.data.transforms import PairsTransform, pixels_3hw, random_resized_crop
from xvlm.progress import tracked
from xvlm.ranges import NonNegativeInt, PositiveInt
from xvlm.records import Record

WIDTH, HEIGHT = 640, 480
QUALITY = 90
CAPTION = "A brown dog runs over the wet grass of a park."


def picture(seed: int) -> bytes:
    """A JPEG of colours that change slowly, with grain: about 90 kB, as photographs of this size have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0, 7, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def milliseconds(call: Callable[[int, int], object], count: int, first_seed: int) -> float:
    """Mean time of `call(number, seed)` for so many numbers."""
    begun = time.perf_counter()
    for number in range(count):
        call(number, first_seed + number)
    return 1e3 * (time.perf_counter() - begun) / count


def stages(files: Sequence[bytes], size: int, repeats: int) -> dict[str, float]:
    """Milliseconds an image of every stage of the pairs transform, of all of it, and of decoding and resizing
    the same crops alone.  Every round draws other crops and augmentations, which differ much in cost."""
    hw, count = (size, size), len(files)
    opened = [open_image(file, key=str(number)) for number, file in enumerate(files)]
    crops = [
        random_resized_crop(WIDTH, HEIGHT, (0.2, 1.0), np.random.default_rng(seed))
        for seed in range((1 + repeats) * count)
    ]
    views = [one.resized(crop, hw, fast=True) for one, crop in zip(opened, crops[:count], strict=True)]
    transform = PairsTransform(hw)

    def whole(number: int, seed: int) -> None:
        image = open_image(files[number], key=str(number))
        transform(image, (CAPTION,), np.random.default_rng(seed))

    def read_and_resize(number: int, seed: int) -> None:
        open_image(files[number], key=str(number)).resized(crops[seed], hw, fast=True)

    parts: dict[str, Callable[[int, int], object]] = {
        "open_ms": lambda n, seed: open_image(files[n], key=str(n)),
        "decode_crop_resize_ms": lambda n, seed: opened[n].resized(crops[seed], hw, fast=True),
        "flip_ms": lambda n, seed: views[n].transpose(Image.Transpose.FLIP_LEFT_RIGHT) if n % 2 else None,
        "augment_ms": lambda n, seed: rand_augment(views[n], 2, 7, ALL, np.random.default_rng(seed)),
        "tensor_ms": lambda n, seed: pixels_3hw(views[n]),
        "decode_resize_alone_ms": read_and_resize,
        "pairs_transform_ms": whole,
    }
    # In turns, so that a minute in which the machine is slow does not fall on one of them.
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in tracked(range(1 + repeats), "stages", 1 + repeats):
        for name, call in parts.items():
            times[name].append(milliseconds(call, count, turn * count))
    return {name: statistics.median(several[1:]) for name, several in times.items()}


class Pixels:
    """Record -> pixels by the pairs transform."""

    def __init__(self, size: int) -> None:
        self.transform = PairsTransform((size, size))

    def __call__(self, record: Record, rng: np.random.Generator) -> torch.Tensor:
        """(3, height, width) uint8."""
        return self.transform(open_image(record.image, key=record.key), (CAPTION,), rng)[0]


def stacked(parts: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    """Samples -> (B, 3, height, width)."""
    return torch.stack(parts["pairs"])


def images_per_second(folder: Path, size: int, workers: int, batch: int, steps: int) -> float:
    """What the loader gives when the model takes no time, after the first batches."""
    source = JsonSource(folder / "pictures.json")
    feed = Feed([Part("pairs", [source], batch, Pixels(size))], stacked, seed=0)
    warm = 2 * max(1, workers)
    with load(feed, 0, warm + steps, workers) as fed:
        for _ in islice(fed, warm):
            pass
        begun = time.perf_counter()
        for _ in fed:
            pass
        return steps * batch / (time.perf_counter() - begun)


def bench(
    size: PositiveInt = 224,
    images: PositiveInt = 64,
    repeats: PositiveInt = 5,
    workers: NonNegativeInt = 2,
    batch: PositiveInt = 32,
    steps: PositiveInt = 24,
) -> dict[str, Any]:
    """Reading 640 x 480 JPEGs.

    Args:
        size: side of the views, in pixels.
        images: different files.
        repeats: of which the median is taken.
        workers: processes of the loader.
        batch: images in each of its batches.
        steps: batches that are timed.
    """
    files = [picture(number) for number in range(images)]
    found: dict[str, Any] = {
        "size": size,
        "kilobytes_a_file": statistics.mean(map(len, files)) / 1e3,
        **stages(files, size, repeats),
    }
    found["transform_ratio"] = found["pairs_transform_ms"] / found["decode_resize_alone_ms"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, file in enumerate(files):
            (folder / f"{number}.jpg").write_bytes(file)
        records = [{"image": f"{number}.jpg", "caption": CAPTION} for number in range(images)]
        (folder / "pictures.json").write_text(json.dumps(records))
        found["workers"] = workers
        found["images_per_s"] = images_per_second(folder, size, workers, batch, steps)
    return found
