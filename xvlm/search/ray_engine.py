"""Encode photos on a Ray cluster: paths travel to the workers, rows come back to the one process that writes.

Each worker reads, decodes and encodes in one task, so that no decoded photo travels.  Ray runs a task again
whose worker has died; a row comes back once.  Photos and model must be readable on every worker by the same
paths.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import ray

from xvlm.common.errors import InputError
from xvlm.data.files.limits import Limits, current_limits, set_limits
from xvlm.inference.model import InferenceModel
from xvlm.search.encode import Encoded, encode_photos
from xvlm.search.manifest import Manifest, fingerprint
from xvlm.search.photos import PhotoFile
from xvlm.search.windows import pyramid

BLOCK_PHOTOS = 256
"""Photos of one task: what is encoded again if its worker dies."""


class Encoder:
    """A worker: it loads the model once, and encodes blocks of photos."""

    def __init__(
        self, manifest: Manifest, limits: Limits, known: Collection[str], batch_size: int, threads: int
    ) -> None:
        set_limits(limits)
        self.predictor = InferenceModel.load(manifest.model)
        if fingerprint(self.predictor.model) != manifest.fingerprint:
            raise InputError(f"{manifest.model} is another model on this worker than where the index is")
        self.window_C4 = pyramid(manifest.levels)
        self.known, self.batch_size, self.threads = known, batch_size, threads

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, Any]:
        """Encode a block of photos; `row` holds what `encode_photos` yields for each."""
        columns = [block[name].tolist() for name in ("path", "root", "size", "mtime_ns")]
        files = [PhotoFile(*one) for one in zip(*columns, strict=True)]
        rows = encode_photos(self.predictor, files, self.window_C4, self.known, self.batch_size, self.threads)
        found = np.empty(len(files), dtype=object)
        found[:] = list(rows)
        return {"row": found}


def encode_on_ray(
    manifest: Manifest,
    files: Sequence[PhotoFile],
    known: Collection[str],
    batch_size: int = 32,
    threads: int = 4,
    workers: int = 2,
) -> Iterator[Encoded]:
    """Encode photos by the workers of a Ray cluster, a local one unless `ray.init` or RAY_ADDRESS names one.

    Arguments and results are those of `encode_photos`, in another order.

    Args:
        manifest: of the index.
        workers: number of workers, each with a model of its own.
    """
    if not files:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    blocks = max(1, -(-len(files) // BLOCK_PHOTOS))
    paths = ray.data.from_items([asdict(file) for file in files], override_num_blocks=max(blocks, workers))
    rows = paths.map_batches(
        Encoder,
        fn_constructor_args=(manifest, current_limits(), set(known), batch_size, threads),
        batch_size=BLOCK_PHOTOS,
        concurrency=workers,
        num_gpus=_gpus_each(workers),
    )
    for block in rows.iter_batches(batch_size=None):
        yield from block["row"].tolist()


def _gpus_each(workers: int) -> float:
    """Return the GPUs of each worker: one, or a fraction if there are fewer than workers, or none."""
    available = ray.cluster_resources().get("GPU", 0.0)
    return min(1.0, available / workers)
