"""Data streams: sources that are mixed, and a function that builds a training sample of each record."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xvlm.common.errors import TooManyBadRecordsError, XVLMError, describe_error
from xvlm.data.files.limits import current_limits
from xvlm.data.loading.bad_records import BadRecordCounter
from xvlm.data.loading.order import WINDOW, Order
from xvlm.data.sources.source import Source, prefetch
from xvlm.records import BadRecord, Record

SampleBuilder = Callable[[Record, np.random.Generator], Any]
"""Builds a sample of a record for `collate`; may raise BadRecord.

A sample may have three attributes: `bad`, a tuple of BadRecord for concepts that were left out; `read`, how
many concepts were checked, by default 1; and `notes`, a tuple of Note for what is used with a change.
"""

ATTEMPTS = 20
"""Records of a source that are tried for one sample."""


@dataclass(frozen=True)
class DataStream:
    """Samples of one kind.

    Attributes:
        name: name in the argument of `collate`; it also seeds the stream, so renaming changes its order.
        sources: sources, which are mixed.
        global_batch: samples in a step, over all ranks.
        build_sample: builds a sample of a record.
        weights: sampling weight of each source; by default its length.
        window: see `Order`.
        separate_step_ratio: fraction of steps in which the stream gets a separate optimiser step, before that
            of the other streams, and is left out in the others; 0 includes it in the common step, always.
    """

    name: str
    sources: Sequence[Source]
    global_batch: int
    build_sample: SampleBuilder
    weights: Sequence[float] | None = None
    window: int = WINDOW
    separate_step_ratio: float = 0.0

    def occurrence(self, step: int) -> int | None:
        """Return in how many earlier steps the stream occurred; `None` if `step` does not include it."""
        if not self.separate_step_ratio:
            return step
        before, after = int(step * self.separate_step_ratio), int((step + 1) * self.separate_step_ratio)
        return before if after > before else None


@dataclass(frozen=True)
class LoadedSample:
    """A sample with the key of its record; `read` and `bad` include the records tried before it."""

    key: str
    sample: Any
    read: int
    bad: list[BadRecord]


class StreamReader:
    """Reads the samples of a data stream by position."""

    def __init__(self, stream: DataStream, seed: int) -> None:
        self.stream = stream
        self.seed = [seed, zlib.crc32(stream.name.encode())]
        self.order = Order(
            [len(source) for source in stream.sources],
            stream.weights,
            int(np.random.SeedSequence(self.seed).generate_state(1)[0]),
            [source.shards for source in stream.sources],
            stream.window,
        )
        self._has_cache = bool(current_limits().shard_cache)

    def read(self, position: int, step: int) -> LoadedSample:
        """Return the sample at a position; a bad record is replaced by a random one of the same source.

        Args:
            step: step for which it is read, for errors.
        Raises:
            TooManyBadRecordsError: `ATTEMPTS` records in a row are bad.
        """
        at = self.order[position]
        source = self.stream.sources[at.source]
        if self._has_cache:
            prefetch(source, self.order.a_window_later(position).index)
        location = f"step {step}, data stream {self.stream.name!r}, source {source.name!r}"
        bad: list[BadRecord] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([*self.seed, position, attempt])
            index = int(rng.integers(len(source))) if attempt else at.index
            key = f"{source.name}[{index}]"
            try:
                record = source[index]
                key = record.key
                with _seeded_torch(rng):
                    sample = self.stream.build_sample(record, rng)
            except BadRecord as error:
                bad.append(BadRecord(error.reason, error.key or key, error.detail))
            except (XVLMError, OSError, MemoryError) as error:  # their messages need no type
                error.add_note(f"{location}, record {key!r}")
                raise
            except Exception as error:
                raise RuntimeError(f"{location}, record {key!r}: {describe_error(error)}") from error
            else:
                dropped = [
                    BadRecord(one.reason, one.key or key, one.detail) for one in getattr(sample, "bad", ())
                ]
                return LoadedSample(key, sample, len(bad) + getattr(sample, "read", 1), bad + dropped)
        counter = BadRecordCounter()
        counter.add(ATTEMPTS, bad, [])
        reasons = counter.most_common_reasons()
        raise TooManyBadRecordsError(
            f"{location}: {ATTEMPTS} records in a row cannot be used: {reasons}; for example: {bad[-1]}"
        )


@contextmanager
def _seeded_torch(rng: np.random.Generator) -> Iterator[None]:
    """Context in which torch's global generator, which torchvision uses, is seeded from a sample's."""
    before = torch.get_rng_state()
    # torch.manual_seed would also seed the GPUs.
    torch.default_generator.manual_seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)
