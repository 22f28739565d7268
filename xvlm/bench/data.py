"""Time from JPEG files to batches: each stage, the transform, the loader, and the cores that a step needs.

The images are generated, see `common/photo_shards.py`.
"""

from __future__ import annotations

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

from xvlm import distributed
from xvlm.bench.common.photo_shards import HEIGHT, WIDTH, noise_jpeg
from xvlm.bench.common.reading import reading_rates
from xvlm.bench.mixed_step import mixed_step_seconds
from xvlm.common.errors import InputError
from xvlm.common.progress import progress_bar
from xvlm.common.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from xvlm.common.terminal import print_notice
from xvlm.data.images.decode import open_image
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream
from xvlm.data.loading.workers import WorkerStream
from xvlm.data.samples.crops import random_resized_crop
from xvlm.data.samples.randaugment import ALL_OPERATIONS, rand_augment
from xvlm.data.samples.transforms import PairTransform, image_to_tensor
from xvlm.data.sources.json import JsonSource
from xvlm.records import Record

CAPTION = "A brown dog runs over the wet grass of a park."


def milliseconds(call: Callable[[int, int], object], count: int, first_seed: int) -> float:
    """Return the mean time of `call(index, seed)` over `count` indices, with a different seed for each."""
    start = time.perf_counter()
    for index in range(count):
        call(index, first_seed + index)
    return 1e3 * (time.perf_counter() - start) / count


def stages(files: Sequence[bytes], size: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds an image of each stage of the transform, and of all stages."""
    hw, count = (size, size), len(files)
    opened = [open_image(file, key=str(index)) for index, file in enumerate(files)]
    crops = [
        random_resized_crop(WIDTH, HEIGHT, (0.2, 1.0), np.random.default_rng(seed))
        for seed in range((1 + repeats) * count)
    ]
    views = [one.resized(crop, hw, fast=True) for one, crop in zip(opened, crops[:count], strict=True)]
    transform = PairTransform(hw)

    def transform_file(index: int, seed: int) -> None:
        image = open_image(files[index], key=str(index))
        transform(image, (CAPTION,), np.random.default_rng(seed))

    def read_and_resize(index: int, seed: int) -> None:
        open_image(files[index], key=str(index)).resized(crops[seed], hw, fast=True)

    calls: dict[str, Callable[[int, int], object]] = {
        "open_ms": lambda n, seed: open_image(files[n], key=str(n)),
        "decode_crop_resize_ms": lambda n, seed: opened[n].resized(crops[seed], hw, fast=True),
        "flip_ms": lambda n, seed: views[n].transpose(Image.Transpose.FLIP_LEFT_RIGHT) if n % 2 else None,
        "augment_ms": lambda n, seed: rand_augment(
            views[n], 2, 7, ALL_OPERATIONS, np.random.default_rng(seed)
        ),
        "tensor_ms": lambda n, seed: image_to_tensor(views[n]),
        "decode_resize_alone_ms": read_and_resize,
        "pairs_transform_ms": transform_file,
    }
    # In turns, so that a minute in which the hardware is slow does not fall on one of them.  Every round has
    # different crops and augmentations, whose costs vary much.
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in progress_bar(range(1 + repeats), "stages", 1 + repeats):
        for name, call in calls.items():
            times[name].append(milliseconds(call, count, turn * count))
    return {name: statistics.median(several[1:]) for name, several in times.items()}


class PixelSampleBuilder:
    """Builds samples that are the transformed pixels of a record."""

    def __init__(self, size: int) -> None:
        self.transform = PairTransform((size, size))

    def __call__(self, record: Record, rng: np.random.Generator) -> torch.Tensor:
        """Return (3, height, width) uint8 pixels."""
        return self.transform(open_image(record.image, key=record.key), (CAPTION,), rng)[0]


def collate(streams: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    """Stack the samples of a batch to (B, 3, height, width)."""
    return torch.stack(streams["pairs"])


def images_per_second(folder: Path, size: int, workers: int, batch: int, steps: int) -> float:
    """Return the rate of the loader without a model, after the first batches."""
    source = JsonSource(folder / "pictures.json")
    stream = DataStream("pairs", [source], batch, PixelSampleBuilder(size))
    warmup_steps = 2 * max(1, workers)
    step_dataset = StepDataset([stream], collate, seed=0)
    with WorkerStream(step_dataset, range(warmup_steps + steps), workers) as batches:
        for _ in islice(batches, warmup_steps):
            pass
        start = time.perf_counter()
        for _ in batches:
            pass
        return steps * batch / (time.perf_counter() - start)


def bench(
    size: PositiveInt = 224,
    images: PositiveInt = 64,
    repeats: PositiveInt = 5,
    workers: NonNegativeInt = 2,
    batch: PositiveInt = 32,
    steps: PositiveInt = 24,
    pairs: NonNegativeInt = 128,
    region_images: NonNegativeInt = 24,
    step_ms: NonNegativeFloat = 0.0,
    recipe: str = "published/base_4m",
) -> dict[str, Any]:
    """Measure the reading of 640 x 480 JPEGs, and how many cores a training step needs.

    Args:
        size: side of the samples in pixels.
        images: number of different files.
        repeats: measurements that the median is taken of, after a warm-up.
        workers: number of worker processes of the loader.
        batch: number of images in a batch of images alone.
        steps: number of batches that are timed.
        pairs: images with a caption each in a training step.
        region_images: images with regions in a training step.
        step_ms: milliseconds of a training step; 0 measures it on the GPU, if there is one.
        recipe: pre-training recipe of the step that is measured.
    """
    if not pairs + region_images:
        raise InputError("pairs and region_images are both 0; a step needs an image")
    files = [noise_jpeg(index) for index in range(images)]
    result: dict[str, Any] = {
        "size": size,
        "kilobytes_a_file": statistics.mean(map(len, files)) / 1e3,
        **stages(files, size, repeats),
    }
    result["transform_ratio"] = result["pairs_transform_ms"] / result["decode_resize_alone_ms"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, file in enumerate(files):
            (folder / f"{index}.jpg").write_bytes(file)
        records = [{"image": f"{index}.jpg", "caption": CAPTION} for index in range(images)]
        (folder / "pictures.json").write_text(json.dumps(records))
        result["workers"] = workers
        result["images_per_s"] = images_per_second(folder, size, workers, batch, steps)
        batch_sizes = {"pairs": pairs, "regions": region_images}
        result |= reading_rates(folder, files, size, batch_sizes, workers, steps, repeats)
    if not step_ms and distributed.device().type == "cuda":
        step_ms = 1e3 * mixed_step_seconds(recipe, pairs, region_images)
    if not step_ms:
        print_notice("no GPU: --step-ms says how long a step takes, which the cores that it needs depend on")
    needed = (pairs + region_images) / (step_ms / 1e3) if step_ms else None
    return result | {
        "pairs": pairs,
        "region_images": region_images,
        "step_ms": step_ms or None,
        "needed_images_per_s": needed,
        "needed_cores": needed and needed / result["step_images_per_s_and_core"],
    }
