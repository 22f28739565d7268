"""Samples that an evaluation could not use, with reasons; and those that it could use in part only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xvlm import dist
from xvlm.data.checks import hint_at_xyxy
from xvlm.errors import TooManyBadRecordsError
from xvlm.records import NO_FAULT, BadRecord
from xvlm.run import json_text

FIRST_KEYS = 3
LEAST_JUDGED = 200
"""Of fewer samples as many may be skipped as of so many, so that one bad phrase in a small file is told, not
refused."""


@dataclass(frozen=True)
class SkippedSample:
    """One sample that was not measured.

    Attributes:
        reason, key, detail: as in `BadRecord`.
        ids: of the questions or images that a submission therefore lacks.
    """

    reason: str
    key: str
    detail: str
    ids: tuple[Any, ...] = ()


@dataclass
class Skipped:
    """What one evaluation skipped, in order.

    Attributes:
        measured: how many samples were measured, in the evaluation's own unit.
        notes: the keys of samples that were measured although something of them was lost, by what that was.
    """

    samples: list[SkippedSample] = field(default_factory=list)
    measured: int = 0
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def append(self, error: BadRecord, ids: Sequence[Any] = ()) -> None:
        """Skip one sample."""
        self.samples.append(SkippedSample(error.reason, error.key, error.detail, tuple(ids)))

    def extend(self, errors: Iterable[BadRecord]) -> None:
        """Skip several."""
        for error in errors:
            self.append(error)

    def note(self, what: str, key: str) -> None:
        """Something of a sample was lost, and it is measured all the same."""
        self.notes.setdefault(what, []).append(key)

    def gather(self, measured: int) -> None:
        """All ranks get what any of them skipped, by key; they measured so many samples together."""
        self.samples = sorted(dist.collected(self.samples), key=lambda one: in_numbers(one.key))
        together: dict[str, list[str]] = {}
        for notes in dist.gather_objects(self.notes):
            for what, keys in notes.items():
                together.setdefault(what, []).extend(keys)
        self.notes = {what: sorted(keys, key=in_numbers) for what, keys in together.items()}
        self.measured = measured

    @property
    def first(self) -> str:
        """The first problem, in words."""
        if not self.samples:
            return "it is empty"
        one = self.samples[0]
        return str(BadRecord(one.reason, one.key, one.detail))

    @property
    def missing_ids(self) -> list[Any]:
        """What a submission lacks."""
        return list(dict.fromkeys(one for sample in self.samples for one in sample.ids))

    def reasons(self) -> str:
        """Every reason with its count and the first keys, the commonest first."""
        counts = Counter(one.reason for one in self.samples)
        return "; ".join(
            told(count, reason, [one.key for one in self.samples if one.reason == reason])
            for reason, count in counts.most_common()
        )

    def causes(self) -> str:
        """`reasons`, with a guess at what may be wrong with the file as a whole."""
        hint = hint_at_xyxy(BadRecord(one.reason, one.key, one.detail) for one in self.samples)
        return f"{self.reasons()}; {hint}" if hint else self.reasons()

    def lines(self) -> list[str]:
        """Sentences for a person: what was skipped and why, what was used in part; none where all is well."""
        lines = []
        if self.samples:
            total = self.measured + len(self.samples)
            lines.append(f"{len(self.samples)} of {total} samples were skipped: {self.causes()}")
        if self.notes:
            parts = [told(len(keys), what, keys) for what, keys in self.notes.items()]
            lines.append(f"measured in part: {'; '.join(parts)}")
        return lines

    def check(self, max_bad: float, listed_in: str = "") -> None:
        """Raise TooManyBadRecordsError where more than `max_bad` of all samples were skipped.

        Args:
            listed_in: the file that lists them, for the message.
        """
        bad = sum(one.reason not in NO_FAULT for one in self.samples)
        total = self.measured + bad
        if bad > max_bad * max(total, LEAST_JUDGED):
            raise TooManyBadRecordsError(
                f"{bad} of {total} samples cannot be used, more than --max-bad {max_bad:g} allows: "
                f"{self.causes()}" + (f"; see {listed_in}" if listed_in else "")
            )

    def to_jsonl(self) -> str:
        """One JSON object a line for every sample that was skipped."""
        return "".join(json_text(asdict(one)) + "\n" for one in self.samples)


def in_numbers(key: str) -> list[tuple[str, int, str]]:
    """What sorts `a[2]` before `a[10]`."""
    return [(text, len(digits), digits) for text, digits in re.findall(r"(\D*)(\d*)", key)]


def told(count: int, what: str, keys: Sequence[str]) -> str:
    """`12 x box is empty (first: a.json[3], a.json[7], a.json[9])`."""
    return f"{count} x {what} (first: {', '.join(dict.fromkeys(keys[:FIRST_KEYS]))})"
