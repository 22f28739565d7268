"""Sources + order + view + collate -> the batch of a step, in worker processes.

What a step holds is a pure function of the step, so the number of workers does not matter, and resuming is
starting at another step.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from xvlm.data.checks import BOX_REASONS, hint_at_xyxy
from xvlm.data.order import WINDOW, Order
from xvlm.data.sources import Source
from xvlm.data.workers import Stream
from xvlm.errors import InputError, TooManyBadRecordsError, XVLMError
from xvlm.records import NO_FAULT, BadRecord, Note, Record
from xvlm.whole import AppendFile

View = Callable[[Record, np.random.Generator], Any]
"""One record -> one sample for `collate`; may raise BadRecord.

A sample that left out bad concepts may say so in an attribute `bad` (a tuple of BadRecord), and in `read` how
many concepts it looked at (1 where there is no such attribute); in `notes` (a tuple of Note) it may say what
it uses otherwise than it stands.
"""

ATTEMPTS = 20
LOGGED_PER_REASON = 100


@dataclass(frozen=True)
class Part:
    """One kind of sample of which every step holds `global_batch`, over all ranks.

    Attributes:
        name: its key in what `collate` gets; it also seeds the part, so renaming changes the order.
        weights: share of each source; by default their lengths.
        window: see `Order`.
        own_turns: share of steps in which the part takes an optimiser step of its own, before that of the
            others; 0: it shares theirs, in every step.
    """

    name: str
    sources: Sequence[Source]
    global_batch: int
    view: View
    weights: Sequence[float] | None = None
    window: int = WINDOW
    own_turns: float = 0.0

    def turn(self, step: int) -> int | None:
        """How many times the part was shown before `step`; `None` if it is not shown in it."""
        if not self.own_turns:
            return step
        before, after = int(step * self.own_turns), int((step + 1) * self.own_turns)
        return before if after > before else None


@dataclass(frozen=True)
class Fed:
    """What one rank gets for one step.

    Attributes:
        batches: one for each of the step's micro-batches, turn by turn.
        keys: by part, the keys of all records in them, in order.
        read: how many records (or concepts, see `View`) were looked at, the bad ones included.
        bad: those that could not be used.
        turns: optimiser steps that the batches are for, as many for each.
        notes: what is used otherwise than it stands.
    """

    step: int
    batches: list[Any]
    keys: dict[str, list[str]]
    read: int
    bad: list[BadRecord]
    turns: int = 1
    notes: list[Note] = field(default_factory=list)

    def by_turn(self) -> list[list[Any]]:
        """The batches of each optimiser step."""
        size = len(self.batches) // self.turns
        return [self.batches[turn * size : (turn + 1) * size] for turn in range(self.turns)]

    def pin_memory(self) -> Fed:
        """The same in page-locked memory, where a batch has tensors; called by torch's loader."""
        return replace(self, batches=[pin_memory(batch) for batch in self.batches])


class Feed(Dataset[Fed]):
    """`feed[step]` -> `Fed`: this rank's slice of the global batch of a step."""

    def __init__(
        self,
        parts: Sequence[Part],
        collate: Callable[[dict[str, list[Any]]], Any],
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        """Set up the order of every part.

        Args:
            collate: samples by part name -> batch; called once for each micro-batch.
            accumulate: consecutive micro-batches that a rank's slice is split into.
        Raises:
            InputError: a global batch that cannot be split evenly, two parts of one name, turns that are no
                share of the steps or leave steps without a part.
        """
        names = [part.name for part in parts]
        shares = [part.own_turns for part in parts]
        if not all(0 <= share <= 1 for share in shares) or (shares and all(shares)):
            raise InputError(f"own_turns of parts {names} are {shares}; 0 to 1 is allowed, and one must be 0")
        if not parts or len(set(names)) < len(names):
            raise InputError(f"part names are {names}; a feed needs at least one part, each name once")
        for part in parts:
            if part.global_batch < 1 or part.global_batch % (world * accumulate):
                raise InputError(
                    f"part {part.name!r}: a global batch of {part.global_batch} cannot be split evenly "
                    f"into {world} ranks x {accumulate} micro-batches"
                )
        self.collate = collate
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self._readers = [_Reader(part, seed) for part in parts]

    @property
    def takes_turns(self) -> bool:
        """Whether some part has optimiser steps of its own."""
        return any(reader.part.own_turns for reader in self._readers)

    @property
    def steps_an_epoch(self) -> float:
        """Steps in which the first part shows as many records as its sources hold."""
        part = self._readers[0].part
        return sum(len(source) for source in part.sources) / part.global_batch

    def __getitem__(self, step: int) -> Fed:
        keys: dict[str, list[str]] = {}
        turns: dict[bool, list[dict[str, list[Any]]]] = {}
        read, bad = 0, []
        notes: list[Note] = []
        for reader in self._readers:
            part, turn = reader.part, reader.part.turn(step)
            if turn is None:
                continue
            taken = [
                reader.take(position, step)
                for position in reader.order.step(turn, part.global_batch, self.rank, self.world)
            ]
            keys[part.name] = [one.key for one in taken]
            size = len(taken) // self.accumulate
            micro = turns.setdefault(not part.own_turns, [{} for _ in range(self.accumulate)])
            for number, samples in enumerate(micro):
                samples[part.name] = [one.sample for one in taken[number * size : (number + 1) * size]]
            read += sum(one.read for one in taken)
            bad += [record for one in taken for record in one.bad]
            notes += [note for one in taken for note in getattr(one.sample, "notes", ())]
        try:
            batches = [self.collate(samples) for shared in sorted(turns) for samples in turns[shared]]
        except (XVLMError, OSError, MemoryError) as error:
            error.add_note(f"step {step}: collate failed on {keys}")
            raise
        except Exception as error:
            raise RuntimeError(f"step {step}: collate failed on {keys}: {_describe(error)}") from error
        return Fed(step, batches, keys, read, bad, len(turns), notes)


@dataclass(frozen=True)
class _Taken:
    key: str
    sample: Any
    read: int
    bad: list[BadRecord]


class _Reader:
    """Samples of one part by position."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part = part
        self.seed = [seed, zlib.crc32(part.name.encode())]
        self.order = Order(
            [len(source) for source in part.sources],
            part.weights,
            int(np.random.SeedSequence(self.seed).generate_state(1)[0]),
            [source.shards for source in part.sources],
            part.window,
        )

    def take(self, position: int, step: int) -> _Taken:
        """The sample at `position`; for a bad record another one of the same source, drawn by chance."""
        place = self.order[position]
        source = self.part.sources[place.source]
        bad: list[BadRecord] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([*self.seed, position, attempt])
            index = int(rng.integers(len(source))) if attempt else place.index
            key = f"{source.name}[{index}]"
            try:
                record = source[index]
                key = record.key
                with _torch_seeded(rng):
                    sample = self.part.view(record, rng)
            except BadRecord as found:
                bad.append(BadRecord(found.reason, found.key or key, found.detail))
            except (XVLMError, OSError, MemoryError) as error:  # these say by themselves what is wrong
                error.add_note(self._place(step, source, key))
                raise
            except Exception as error:
                raise RuntimeError(f"{self._place(step, source, key)}: {_describe(error)}") from error
            else:
                dropped = [
                    BadRecord(one.reason, one.key or key, one.detail) for one in getattr(sample, "bad", ())
                ]
                return _Taken(key, sample, len(bad) + getattr(sample, "read", 1), bad + dropped)
        raise TooManyBadRecordsError(
            f"step {step}, part {self.part.name!r}: {ATTEMPTS} records of source {source.name!r} in a row "
            f"cannot be used: {commonest(bad)}; for example: {bad[-1]}"
        )

    def _place(self, step: int, source: Source, key: str) -> str:
        return f"step {step}, part {self.part.name!r}, source {source.name!r}, record {key!r}"


@contextmanager
def _torch_seeded(rng: np.random.Generator) -> Iterator[None]:
    """torchvision draws from torch's global generator: tie that to the sample, then put it back."""
    before = torch.get_rng_state()
    # not torch.manual_seed, which would reseed the GPUs too
    torch.default_generator.manual_seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def load(feed: Feed, start: int, stop: int, workers: int = 0, pin: bool = False) -> Stream[Fed]:
    """Steps `start` to `stop` (excluded) of `feed`, in order, prepared ahead by `workers` processes.

    Leaving the stream, closing it, or an error in it, ends the workers.  An error in a worker is raised here;
    it names step and record.
    """
    return Stream(feed, range(start, stop), workers, pin)


class BadRecords:
    """Counts what could not be used, by reason; logs the first of each reason; says when it is too much."""

    def __init__(self, log: Path | None = None, max_share: float = 0.01, least_read: int = 200) -> None:
        """Start at nothing.

        Args:
            log: a JSONL file to append to, at most `LOGGED_PER_REASON` lines for each reason.
            max_share: of all that was read, how much may be bad.
            least_read: no judgement before so many were read.
        """
        self.log, self.max_share, self.least_read = log, max_share, least_read
        self.read = 0
        self.counts: Counter[str] = Counter()
        self.first_keys: dict[str, list[str]] = {}
        self.noted: Counter[str] = Counter()
        self._bad_boxes: list[BadRecord] = []

    def add(self, fed: Fed) -> None:
        """Count one step."""
        self.read += fed.read
        lines = []
        for one in fed.bad:
            if self.counts[one.reason] < LOGGED_PER_REASON:
                lines.append(json.dumps({"reason": one.reason, "key": one.key, "detail": one.detail}))
            if self.counts[one.reason] < 3:
                self.first_keys.setdefault(one.reason, []).append(one.key)
            self.counts[one.reason] += 1
            if one.reason in BOX_REASONS and len(self._bad_boxes) < LOGGED_PER_REASON:
                self._bad_boxes.append(one)
        for note in fed.notes:
            if self.noted[note.reason] < LOGGED_PER_REASON:
                lines.append(json.dumps({"note": note.reason, "key": note.key, "detail": note.detail}))
            self.noted[note.reason] += 1
        if lines and self.log is not None:
            with closing(AppendFile(self.log)) as file:
                file.write("".join(line + "\n" for line in lines).encode())

    def check(self) -> None:
        """Raise TooManyBadRecordsError if more than `max_share` of at least `least_read` records was bad."""
        total = sum(count for reason, count in self.counts.items() if reason not in NO_FAULT)
        if self.read < self.least_read or total <= self.max_share * self.read:
            return
        reasons = _told(self.counts, self.first_keys)
        raise TooManyBadRecordsError(
            f"{total} of {self.read} records read are bad, more than {self.max_share:.2%} (--max-bad): "
            f"{reasons}"
            + (f"; see {self.log}" if self.log is not None else "")
            + (f"; {hint}" if (hint := hint_at_xyxy(self._bad_boxes)) else "")
        )

    def note_lines(self) -> list[str]:
        """What was used otherwise than it stands, with counts, a line for each kind."""
        where = f"; see {self.log}" if self.log is not None else ""
        return [f"{count} x {reason} (used){where}" for reason, count in self.noted.most_common()]

    def state_dict(self) -> dict[str, Any]:
        """Counts and first keys, as plain values."""
        return {
            "read": self.read,
            "counts": dict(self.counts),
            "first_keys": dict(self.first_keys),
            "noted": dict(self.noted),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.read = state["read"]
        self.counts = Counter(state["counts"])
        self.noted = Counter(state.get("noted", {}))
        self.first_keys = {reason: list(keys) for reason, keys in state["first_keys"].items()}


def commonest(bad: Sequence[BadRecord]) -> str:
    """The three commonest reasons, with their counts and first keys."""
    keys: dict[str, list[str]] = {}
    for one in bad:
        keys.setdefault(one.reason, []).append(one.key)
    return _told(Counter(one.reason for one in bad), {reason: of[:3] for reason, of in keys.items()})


def _told(counts: Counter[str], first_keys: Mapping[str, Sequence[str]]) -> str:
    told = [
        f"{count} x {reason} (first: {', '.join(first_keys[reason])})"
        for reason, count in counts.most_common(3)
    ]
    others = len(counts) - len(told)
    return "; ".join(told) + (f"; and {others} other reasons" if others else "")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
