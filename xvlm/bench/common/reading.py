"""Rates of the whole way from tar shards to batches of pre-training, for each data stream and for a step."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from xvlm import distributed
from xvlm.bench.common.photo_shards import WORDS, write_shards
from xvlm.common.hardware import usable_cores
from xvlm.common.progress import progress_bar
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream, SampleBuilder
from xvlm.data.loading.workers import WorkerStream
from xvlm.data.samples.builders import PairSampleBuilder, RegionSampleBuilder
from xvlm.data.samples.text_rows import TextRowBuilder
from xvlm.data.samples.transforms import PairTransform, RegionTransform
from xvlm.data.sources.tar import TarSource
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.tasks.common.pretraining_batch import PretrainCollate

TIMED_IMAGES = 64


def reading_rates(
    folder: Path,
    files: Sequence[bytes],
    size: int,
    batch_sizes: Mapping[str, int],
    workers: int,
    steps: int,
    repeats: int,
) -> dict[str, float]:
    """Return images a second and core of each data stream and of a step, and the number of cores.

    Members of a tar are read, decoded, cropped, resized, flipped and augmented, their texts tokenized and
    masked, and samples collated.  A stream is read in this process.  A step is read by all workers at once:
    it includes their transport, and what cores lose that share caches, memory, or one physical core.  Rates
    for each core are in seconds of processors, which other programs do not lengthen.

    Args:
        folder: empty or new folder for the shards.
        batch_sizes: images of a step by data stream, "pairs" and "regions".
        steps: steps that are timed, rounded up so that each worker reads equally many.
    """
    streams = data_streams(folder, files, size, batch_sizes)
    times: dict[str, list[float]] = {stream.name: [] for stream in streams}
    with one_thread():
        for turn in progress_bar(range(1 + repeats), "streams", 1 + repeats):
            for stream in streams:  # in turns, as the stages
                times[stream.name].append(cpu_seconds(stream, turn))
    rates = {
        f"{name}_images_per_s_and_core": 1 / statistics.median(several[1:]) for name, several in times.items()
    }
    data = StepDataset(streams, PretrainCollate(), seed=0)
    return rates | step_rates(data, workers, steps) | {"cores": usable_cores()}


def data_streams(
    folder: Path, files: Sequence[bytes], size: int, batch_sizes: Mapping[str, int]
) -> list[DataStream]:
    """Write shards, and return the data streams of pre-training that read them."""
    text = TextRowBuilder(Tokenizer.train_wordpiece([" ".join(WORDS)], vocab_size=1000))
    builders: dict[str, SampleBuilder] = {
        "pairs": PairSampleBuilder(PairTransform((size, size)), text),
        "regions": RegionSampleBuilder(RegionTransform((size, size)), text),
    }
    return [
        DataStream(
            name, [TarSource(write_shards(folder / name, files, name == "regions"))], count, builders[name]
        )
        for name, count in batch_sizes.items()
        if count
    ]


def cpu_seconds(stream: DataStream, turn: int) -> float:
    """Return the processor's seconds for one image of a batch of `TIMED_IMAGES`, number `turn`."""
    batch = DataStream(stream.name, stream.sources, TIMED_IMAGES, stream.build_sample)
    data = StepDataset([batch], PretrainCollate(), seed=0)
    start = time.process_time()
    data[turn]
    return (time.process_time() - start) / TIMED_IMAGES


def step_rates(data: StepDataset, workers: int, steps: int) -> dict[str, float]:
    """Return the images a second of the loader without a model, by the clock and for each core."""
    each = max(1, workers)
    steps = each * max(2, math.ceil(steps / each))
    images = sum(stream.global_batch for stream in data.streams)
    pin = distributed.device().type == "cuda"
    before = all_cpu_seconds()
    with WorkerStream(data, range(2 * each + steps), workers, pin) as batches:
        for _ in islice(batches, 2 * each):
            pass
        start = time.perf_counter()
        for _ in progress_bar(batches, "steps", steps):
            pass
        elapsed = time.perf_counter() - start
    cpu = all_cpu_seconds() - before  # workers count when they have ended
    return {
        "step_images_per_s": images * steps / elapsed,
        "step_images_per_s_and_core": images * (2 * each + steps) / cpu,
    }


def all_cpu_seconds() -> float:
    """Return the processor's seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which PyTorch uses one thread, as in a worker: threads that wait count as time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
