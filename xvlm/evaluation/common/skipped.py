"""Samples that an evaluation skipped, with reasons, and samples of which it used only a part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xvlm import distributed
from xvlm.common.errors import TooManyBadRecordsError
from xvlm.common.json_file import json_text
from xvlm.data.samples.concept_checks import hint_at_xyxy
from xvlm.records import HARMLESS_REASONS, BadRecord

NUM_KEYS = 3
"""Number of keys that a message lists."""
MIN_TOTAL = 200
"""The share of skipped samples is computed of at least this many, so that one bad phrase in a small file is
reported and not an error."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was not measured.

    Attributes:
        reason, key, detail: see `BadRecord`.
        ids: ids of the questions or images that a submission therefore lacks.
    """

    reason: str
    key: str
    detail: str
    ids: tuple[Any, ...] = ()

    def as_error(self) -> BadRecord:
        """Return the error for which the sample was skipped."""
        return BadRecord(self.reason, self.key, self.detail)


@dataclass
class SkippedSamples:
    """The samples that one evaluation skipped, in order.

    Attributes:
        measured: number of samples that were measured.
        notes: keys of samples that were measured in part, by what was lost of them.
    """

    samples: list[SkippedSample] = field(default_factory=list)
    measured: int = 0
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def append(self, error: BadRecord, ids: Sequence[Any] = ()) -> None:
        """Add a sample; `ids` are those that a submission therefore lacks."""
        self.samples.append(SkippedSample(error.reason, error.key, error.detail, tuple(ids)))

    def extend(self, errors: Iterable[BadRecord]) -> None:
        """Add several samples."""
        for error in errors:
            self.append(error)

    def note(self, what: str, key: str) -> None:
        """Note what was lost of a sample that is measured in part."""
        self.notes.setdefault(what, []).append(key)

    def gather(self, measured: int) -> None:
        """Gather what all ranks skipped and noted, sorted by key.

        Args:
            measured: number of samples that all ranks measured.
        """
        self.samples = sorted(
            distributed.gather_lists(self.samples), key=lambda sample: natural_order(sample.key)
        )
        notes_of_all: dict[str, list[str]] = {}
        for notes in distributed.gather_objects(self.notes):
            for what, keys in notes.items():
                notes_of_all.setdefault(what, []).extend(keys)
        self.notes = {what: sorted(keys, key=natural_order) for what, keys in notes_of_all.items()}
        self.measured = measured

    @property
    def first_problem(self) -> str:
        """The first reason, in words."""
        return str(self.samples[0].as_error()) if self.samples else "it is empty"

    @property
    def missing_ids(self) -> list[Any]:
        """The ids that a submission lacks."""
        return list(dict.fromkeys(name for sample in self.samples for name in sample.ids))

    def causes(self) -> str:
        """Return every reason with its count and first keys, the most common one first.

        A guess follows at what may be wrong with the file as a whole.
        """
        counts = Counter(sample.reason for sample in self.samples)
        parts = [
            count_with_keys(count, reason, [sample.key for sample in self.samples if sample.reason == reason])
            for reason, count in counts.most_common()
        ]
        hint = hint_at_xyxy(sample.as_error() for sample in self.samples)
        return "; ".join([*parts, hint] if hint else parts)

    def lines(self) -> list[str]:
        """Return sentences for the user: what was skipped and why, and what was measured in part."""
        lines = []
        if self.samples:
            total = self.measured + len(self.samples)
            lines.append(f"{len(self.samples)} of {total} samples were skipped: {self.causes()}")
        if self.notes:
            parts = [count_with_keys(len(keys), what, keys) for what, keys in self.notes.items()]
            lines.append(f"measured in part: {'; '.join(parts)}")
        return lines

    def check(self, max_bad: float, listed_in: str = "") -> None:
        """Raise TooManyBadRecordsError if more than a fraction `max_bad` of all samples was skipped.

        Args:
            listed_in: the file that lists them, for the message.
        """
        bad = sum(sample.reason not in HARMLESS_REASONS for sample in self.samples)
        total = self.measured + bad
        if bad > max_bad * max(total, MIN_TOTAL):
            raise TooManyBadRecordsError(
                f"{bad} of {total} samples cannot be used, more than --max-bad {max_bad:g} allows: "
                f"{self.causes()}" + (f"; see {listed_in}" if listed_in else "")
            )

    def to_jsonl(self) -> str:
        """Return the skipped samples as JSON lines."""
        return "".join(json_text(asdict(sample)) + "\n" for sample in self.samples)


def natural_order(key: str) -> list[tuple[str, int, str]]:
    """Return a sort key by which `a[2]` comes before `a[10]`."""
    return [(text, len(digits), digits) for text, digits in re.findall(r"(\D*)(\d*)", key)]


def count_with_keys(count: int, what: str, keys: Sequence[str]) -> str:
    """Format as `12 x box is empty (first: a.json[3], a.json[7], a.json[9])`."""
    return f"{count} x {what} (first: {', '.join(dict.fromkeys(keys[:NUM_KEYS]))})"
