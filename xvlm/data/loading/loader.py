"""The batches of every training step, from the samples of all data streams.

The data of a step are a pure function of its number.  So they do not depend on the number of workers, and a
run resumes by starting at another step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from xvlm.common.errors import InputError, XVLMError, describe_error
from xvlm.data.loading.streams import DataStream, StreamReader
from xvlm.records import BadRecord, Note


@dataclass(frozen=True)
class StepData:
    """The data of one step for one rank.

    Attributes:
        step: number of the step.
        batches: micro-batches, those of each optimiser step one after another.
        keys: keys of the records of each data stream.
        read: number of records (or concepts, see `SampleBuilder`) read, including bad ones.
        bad: records and concepts that cannot be used.
        optimizer_steps: number of optimiser steps, which have equally many micro-batches.
        notes: notes on what is used with a change.
    """

    step: int
    batches: list[Any]
    keys: dict[str, list[str]]
    read: int
    bad: list[BadRecord]
    optimizer_steps: int = 1
    notes: list[Note] = field(default_factory=list)

    def by_optimizer_step(self) -> list[list[Any]]:
        """Return the micro-batches of each optimiser step."""
        size = len(self.batches) // self.optimizer_steps
        return [self.batches[i * size : (i + 1) * size] for i in range(self.optimizer_steps)]

    def pin_memory(self) -> StepData:
        """Return a copy with the tensors of all batches in page-locked memory; torch's loader calls this."""
        return replace(self, batches=[pin_memory(batch) for batch in self.batches])


class StepDataset(Dataset[StepData]):
    """Data of every step: `dataset[step]` is this rank's slice of the global batch."""

    def __init__(
        self,
        streams: Sequence[DataStream],
        collate: Callable[[dict[str, list[Any]]], Any],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation_steps: int = 1,
    ) -> None:
        """Prepare the order of every data stream.

        Args:
            collate: builds a micro-batch of samples, which are in a dict by the name of their data stream.
            accumulation_steps: number of consecutive micro-batches that a rank's slice is split into.
        Raises:
            InputError: two streams have one name, a global batch cannot be split evenly, or the ratios of
                separate steps are out of range or leave steps without a stream.
        """
        names = [stream.name for stream in streams]
        ratios = [stream.separate_step_ratio for stream in streams]
        if not all(0 <= ratio <= 1 for ratio in ratios) or (ratios and all(ratios)):
            allowed = "all must be in [0, 1], and one must be 0"
            raise InputError(f"separate_step_ratio of the data streams {names} is {ratios}; {allowed}")
        if not streams or len(set(names)) < len(names):
            raise InputError(f"data streams are {names}; at least one is needed, and each name only once")
        for stream in streams:
            if stream.global_batch < 1 or stream.global_batch % (world_size * accumulation_steps):
                raise InputError(
                    f"data stream {stream.name!r}: a global batch of {stream.global_batch} cannot be split "
                    f"evenly into {world_size} ranks x {accumulation_steps} micro-batches"
                )
        self.streams, self.collate = streams, collate
        self.rank, self.world_size, self.accumulation_steps = rank, world_size, accumulation_steps
        self._readers = [StreamReader(stream, seed) for stream in streams]

    @property
    def has_separate_steps(self) -> bool:
        """Whether some data stream gets separate optimiser steps."""
        return any(stream.separate_step_ratio for stream in self.streams)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which the first data stream includes as many records as its sources have."""
        first = self.streams[0]
        return sum(len(source) for source in first.sources) / first.global_batch

    def __getitem__(self, step: int) -> StepData:
        keys: dict[str, list[str]] = {}
        read, bad = 0, []
        notes: list[Note] = []
        micro_batches: dict[bool, list[dict[str, list[Any]]]] = {}  # by whether their step is separate
        for stream, reader in zip(self.streams, self._readers, strict=True):
            occurrence = stream.occurrence(step)
            if occurrence is None:
                continue
            positions = reader.order.step(occurrence, stream.global_batch, self.rank, self.world_size)
            loaded = [reader.read(position, step) for position in positions]
            keys[stream.name] = [one.key for one in loaded]
            read += sum(one.read for one in loaded)
            bad += [record for one in loaded for record in one.bad]
            notes += [note for one in loaded for note in getattr(one.sample, "notes", ())]
            size = len(loaded) // self.accumulation_steps
            is_separate = stream.separate_step_ratio > 0
            micro = micro_batches.setdefault(is_separate, [{} for _ in range(self.accumulation_steps)])
            for i, samples in enumerate(micro):
                samples[stream.name] = [one.sample for one in loaded[i * size : (i + 1) * size]]
        try:
            separate, common = micro_batches.get(True, []), micro_batches.get(False, [])
            batches = [self.collate(samples) for samples in separate + common]
        except (XVLMError, OSError, MemoryError) as error:
            error.add_note(f"step {step}: collate failed on {keys}")
            raise
        except Exception as error:
            raise RuntimeError(f"step {step}: collate failed on {keys}: {describe_error(error)}") from error
        return StepData(step, batches, keys, read, bad, len(micro_batches), notes)
