"""Share of its time that a real training run waits for data, which it reads from tar shards of JPEGs.

The images are generated (`common/photo_shards.py`), the weights random and the texts those of the images, so
that neither files nor a network are needed.

Workers read two steps each ahead while the first step compiles its kernels.  That lasts for long if they are
slower than the steps by a small part of the time: 16 workers that are 10 % too slow are waited for after 320
steps.  `xvlm bench data` measures their rate itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xvlm import distributed
from xvlm.bench.common.gemm_baseline import describe_device
from xvlm.bench.common.photo_shards import noise_jpeg, write_shards
from xvlm.bench.step import pretraining
from xvlm.common.hardware import usable_cores
from xvlm.common.ranges import NonNegativeInt, PositiveInt
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_batch import STREAMS
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import ZeroShotValidation
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training.log import read_rows
from xvlm.training.starvation import MAX_SHARE, WARM_UP_STEPS, needed_workers
from xvlm.training.train import train


def bench(
    recipe: str = "published/base_4m",
    pairs: PositiveInt = 128,
    region_images: PositiveInt = 24,
    workers: NonNegativeInt = 2,
    steps: PositiveInt = 200,
    images: PositiveInt = 256,
) -> dict[str, Any]:
    """Measure how long the steps of a training run wait for data.

    Args:
        recipe: pre-training recipe with the model, the losses and the augmentation.
        pairs: images with a caption each in a step.
        region_images: images with regions in a step.
        workers: processes that read data; 0 reads in the training process.
        steps: steps that are timed, after those whose data were read during the first ones.
        images: number of different files.
    """
    warm_up = WARM_UP_STEPS + 2 * workers  # what workers have read ahead
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [noise_jpeg(index) for index in range(images)]
        sources = {
            stream: (SourceConfig(write_shards(folder / stream, files, stream == "regions")),)
            for stream in STREAMS
        }
        run = on_shards(pretraining(recipe), sources, pairs, region_images)
        run = replace(run, workers=workers, optim=replace(run.optim, steps=warm_up + steps))
        train(run, folder / "run")
        rows = read_rows(folder / "run" / "log.jsonl")
    return {
        "recipe": recipe,
        "device": describe_device(distributed.device()),
        "cores": usable_cores(),
        "workers": workers,
        "steps": steps,
        **timing([row for row in rows if row["step"] > warm_up], pairs + region_images, workers),
    }


def on_shards(
    run: PretrainRun, sources: Mapping[str, tuple[SourceConfig, ...]], pairs: int, region_images: int
) -> PretrainRun:
    """Return a run with random weights that reads these sources, and saves nothing before its end."""
    data = replace(
        run.data,
        pairs=sources["pairs"],
        regions=sources["regions"],
        pairs_batch_size=pairs,
        regions_batch_size=region_images,
        region_step_ratio=1.0,
        cached_views=0,
    )
    return replace(
        run,
        data=data,
        init=InitConfig(),
        validation=ZeroShotValidation(),
        optim=replace(run.optim, epochs=0.0, warmup_steps=1, warmup_ratio=0.0),
        save_every=0,
        eval_every=0,
        log_every=1,
        best_metric="",
    )


def timing(rows: Sequence[Mapping[str, Any]], images: int, workers: int) -> dict[str, float | None]:
    """Return the share of waiting, the rate, the time without waiting, and the workers that are needed.

    The last is `None` if workers are not waited for, whose own rate is then unknown.

    Args:
        rows: rows of the log.
        images: images of a step.
        workers: processes that read them.
    """
    seconds = [images / row["images_per_s"] for row in rows]
    total = sum(seconds)
    waiting = sum(row["data_share"] * one for row, one in zip(rows, seconds, strict=True))
    return {
        "data_share": waiting / total,
        "images_per_s": images * len(rows) / total,
        "step_ms": 1e3 * (total - waiting) / len(rows),
        "needed_workers": needed_workers(workers, waiting, total) if waiting > MAX_SHARE * total else None,
    }
